// Command clientgo drives a cluster the way operators do: typed clients over protobuf, an informer, optimistic locking.
// It prints one line a check and exits 1 at the first that fails.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
)

const namespace = "clientgo"

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	check("kubeconfig", err)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS, config.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(config)
	check("client", err)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()

	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	check("create namespace over protobuf", err)
	waitFor(ctx, "default service account", func() (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
	informerSeesChanges(ctx, client)
	conflictsAreReported(ctx, client)
	deploymentRuns(ctx, client)
	listsArePaged(ctx, client)
	check("delete namespace", client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
	waitFor(ctx, "namespace is gone", func() (bool, error) {
		_, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), ignoreNotFound(err)
	})
}

func informerSeesChanges(ctx context.Context, client kubernetes.Interface) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	seen := make(chan string, 100)
	_, err := factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { seen <- "add " + o.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, o any) { seen <- "update " + o.(*corev1.ConfigMap).Data["k"] },
		DeleteFunc: func(o any) { seen <- "delete" },
	})
	check("informer handler", err)
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	maps := client.CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "watched-"}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	check("create with generateName", err)
	_, err = maps.Patch(ctx, made.Name, types.StrategicMergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{})
	check("strategic merge patch", err)
	check("delete", maps.Delete(ctx, made.Name, metav1.DeleteOptions{}))
	for _, want := range []string{"add " + made.Name, "update 2", "delete"} {
		deadline := time.After(10 * time.Second)
		for got := ""; got != want; {
			select {
			case got = <-seen:
			case <-deadline:
				fail("informer sees "+want, fmt.Errorf("timed out"))
			}
		}
	}
	fmt.Println("ok informer sees create, patch and delete in order")
}

func conflictsAreReported(ctx context.Context, client kubernetes.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	first, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "contended"}}, metav1.CreateOptions{})
	check("create", err)
	_, err = maps.Create(ctx, first, metav1.CreateOptions{})
	if err == nil {
		fail("create with a resourceVersion is refused", fmt.Errorf("it was taken"))
	}
	second := first.DeepCopy()
	second.Data = map[string]string{"winner": "second"}
	_, err = maps.Update(ctx, second, metav1.UpdateOptions{})
	check("update", err)
	if _, err = maps.Update(ctx, first, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		fail("a stale update conflicts", fmt.Errorf("got %v", err))
	}
	check("retry on conflict", retry.RetryOnConflict(retry.DefaultRetry, func() error {
		latest, err := maps.Get(ctx, "contended", metav1.GetOptions{})
		if err != nil {
			return err
		}
		latest.Labels = map[string]string{"retried": "yes"}
		_, err = maps.Update(ctx, latest, metav1.UpdateOptions{})
		return err
	}))
}

func deploymentRuns(ctx context.Context, client kubernetes.Interface) {
	replicas := int32(3)
	labels := map[string]string{"app": "web"}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx"}}},
			},
		},
	}
	_, err := client.AppsV1().Deployments(namespace).Create(ctx, deployment, metav1.CreateOptions{})
	check("create deployment over protobuf", err)
	waitFor(ctx, "deployment is available", func() (bool, error) {
		d, err := client.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == replicas, err
	})
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "status.phase=Running"})
	check("list pods", err)
	if len(pods.Items) != int(replicas) {
		fail("selectors find the running pods", fmt.Errorf("found %d", len(pods.Items)))
	}
	scale, err := client.AppsV1().Deployments(namespace).GetScale(ctx, "web", metav1.GetOptions{})
	check("get scale", err)
	scale.Spec.Replicas = 1
	_, err = client.AppsV1().Deployments(namespace).UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
	check("update scale", err)
	waitFor(ctx, "scaled down", func() (bool, error) {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		return err == nil && len(pods.Items) == 1, err
	})
}

func listsArePaged(ctx context.Context, client kubernetes.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	for i := range 25 {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", i), Labels: map[string]string{"page": "yes"}}}, metav1.CreateOptions{})
		check("create", err)
	}
	seen, token := 0, ""
	for {
		page, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "page=yes", Limit: 10, Continue: token})
		check("list page", err)
		seen += len(page.Items)
		if token = page.Continue; token == "" {
			break
		}
	}
	if seen != 25 {
		fail("pages hold every object once", fmt.Errorf("saw %d", seen))
	}
	check("deletecollection", maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "page=yes"}))
}

func waitFor(ctx context.Context, what string, done func() (bool, error)) {
	check(what, wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) { return done() }))
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func check(what string, err error) {
	if err != nil {
		fail(what, err)
	}
	fmt.Println("ok", what)
}

func fail(what string, err error) {
	fmt.Println("FAILED", what+":", err)
	os.Exit(1)
}
