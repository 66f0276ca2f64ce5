//! A few types in the text format, enough to test every shape.

use super::Types;

pub(crate) const CORE: &str = r#"
# a slice of core/v1
type Pod k8s.io.api.core.v1.Pod
  kind 0 string o
  apiVersion 0 string o
  metadata 1 meta/v1.ObjectMeta o
  spec 2 PodSpec o
  status 3 PodStatus o
type PodList k8s.io.api.core.v1.PodList
  kind 0 string o
  apiVersion 0 string o
  metadata 1 meta/v1.ListMeta o
  items 2 []Pod !
type PodStatus k8s.io.api.core.v1.PodStatus
  phase 1 string o
  startTime 7 *time o
type PodSpec k8s.io.api.core.v1.PodSpec
  volumes 1 []Volume o list=map keys=name patch=merge,retainKeys key=name
  containers 2 []Container ! list=map keys=name patch=merge key=name
  restartPolicy 3 string o enum=Always,Never,OnFailure
  terminationGracePeriodSeconds 4 *int64 o
  nodeSelector 7 map[string]string o map=atomic
  hostNetwork 11 bool o
  securityContext 14 *PodSecurityContext o
  tolerations 22 []Toleration o list=atomic
  overhead 32 map[string]quantity o
type PodSecurityContext k8s.io.api.core.v1.PodSecurityContext
  runAsUser 2 *int64 o
  runAsNonRoot 3 *bool o
type Toleration k8s.io.api.core.v1.Toleration
  key 1 string o
  value 3 string o
type Volume k8s.io.api.core.v1.Volume
  name 1 string !
  - 2 .VolumeSource inline
type VolumeSource k8s.io.api.core.v1.VolumeSource
  hostPath 1 *HostPathVolumeSource o
  emptyDir 2 *EmptyDirVolumeSource o
type HostPathVolumeSource k8s.io.api.core.v1.HostPathVolumeSource
  path 1 string !
  type 2 *string o
type EmptyDirVolumeSource k8s.io.api.core.v1.EmptyDirVolumeSource
  medium 1 string o
  sizeLimit 2 *quantity o
type Container k8s.io.api.core.v1.Container
  name 1 string !
  image 2 string o
  command 3 []string o list=atomic
  ports 6 []ContainerPort o list=map keys=containerPort,protocol patch=merge key=containerPort
  resources 8 ResourceRequirements o
  finalizers 30 []string o list=set patch=merge
type ContainerPort k8s.io.api.core.v1.ContainerPort
  name 1 string o
  containerPort 3 int32 !
  protocol 4 string o default="TCP"
type ResourceRequirements k8s.io.api.core.v1.ResourceRequirements
  limits 1 map[string]quantity o
type Secret k8s.io.api.core.v1.Secret
  kind 0 string o
  apiVersion 0 string o
  metadata 1 meta/v1.ObjectMeta o
  data 2 map[string]bytes o
type Odd k8s.io.api.core.v1.Odd
  port 1 intorstring o
  maybe 2 *intorstring o
  raw 3 rawextension o
  timeout 4 *duration o
  micro 5 microtime o
  ratio 6 *float64 o
  bytes 7 []bytes o
  any 8 *json o
  verbs 9 Verbs o
  extra 10 map[string]Verbs o
  quantity 11 quantity o
  numbers 12 []int64 o
  big 13 int64 !
  props 14 *SchemaProps o
type Verbs k8s.io.api.core.v1.Verbs
  - 1 []string inline
type SchemaProps k8s.io.api.core.v1.SchemaProps
  type 5 string o
  items 26 *JSONSchemaPropsOrArray o
  properties 27 map[string]SchemaProps o
  additionalProperties 31 *JSONSchemaPropsOrBool o
type JSONSchemaPropsOrArray k8s.io.api.core.v1.JSONSchemaPropsOrArray
  - 1 *SchemaProps inline
  - 2 []SchemaProps inline
type JSONSchemaPropsOrBool k8s.io.api.core.v1.JSONSchemaPropsOrBool
  - 1 bool inline
  - 2 *SchemaProps inline
"#;

pub(crate) const META: &str = r#"
type TypeMeta k8s.io.apimachinery.pkg.apis.meta.v1.TypeMeta
  kind 1 string o
  apiVersion 2 string o
type ObjectMeta k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta
  name 1 string o
  namespace 3 string o
  generation 7 int64 o
  creationTimestamp 8 time o
  deletionTimestamp 9 *time o
  labels 11 map[string]string o
  finalizers 14 []string o list=set patch=merge
  managedFields 17 []ManagedFieldsEntry o list=atomic
type ListMeta k8s.io.apimachinery.pkg.apis.meta.v1.ListMeta
  resourceVersion 2 string o
  remainingItemCount 4 *int64 o
type ManagedFieldsEntry k8s.io.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry
  manager 1 string o
  fieldsV1 7 *fieldsv1 o
"#;

pub(crate) fn types() -> Types {
    Types::new(&[("core/v1", CORE), ("meta/v1", META)])
}
