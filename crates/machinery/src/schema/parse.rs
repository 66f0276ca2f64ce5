//! Reads the facts text of one file.

use std::sync::OnceLock;

use super::{Field, ListType, MapType, PatchStrategy, Shape, Special, Type, TypeName};
use crate::Value;

/// All types of a file, sorted by name.
///
/// # Panics
/// When the text breaks its own format: facts are ours, built in.
pub(super) fn parse(file: &'static str, text: &'static str) -> Vec<Type> {
    let mut types: Vec<Type> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            None => {}
            Some(word) if word.starts_with('#') => {}
            Some("type") if !line.starts_with([' ', '\t']) => {
                let name = words.next().unwrap_or_else(|| panic!("{file}:{}: a type needs a name", i + 1));
                let proto = words.next().filter(|p| *p != "-");
                types.push(Type {
                    name,
                    file,
                    proto,
                    fields: Vec::new(),
                    special: special(name),
                    by_number: Vec::new(),
                    index: OnceLock::new(),
                });
            }
            Some(name) => {
                let field = field(file, name, words).unwrap_or_else(|e| panic!("{file}:{}: {e}: {line:?}", i + 1));
                let ty = types.last_mut().unwrap_or_else(|| panic!("{file}:{}: a field before any type", i + 1));
                ty.fields.push(field);
            }
        }
    }
    types.iter_mut().for_each(finish);
    types.sort_by_key(|t| t.name);
    types
}

fn special(name: &str) -> Special {
    match name {
        "JSONSchemaPropsOrArray" => Special::SchemaOrArray,
        "JSONSchemaPropsOrBool" => Special::SchemaOrBool,
        "JSONSchemaPropsOrStringArray" => Special::SchemaOrStringArray,
        _ => Special::None,
    }
}

fn finish(ty: &mut Type) {
    if let [Field { inline: true, shape: Shape::List(_), .. }] = ty.fields.as_slice() {
        ty.special = Special::List;
    }
    let mut numbered: Vec<u16> = (0..ty.fields.len()).filter(|i| ty.fields[*i].number > 0).map(|i| i as u16).collect();
    numbered.sort_by_key(|i| ty.fields[usize::from(*i)].number);
    ty.by_number = numbered;
}

fn field(
    file: &'static str,
    name: &'static str,
    mut words: impl Iterator<Item = &'static str>,
) -> Result<Field, String> {
    let number = match words.next().ok_or("a field needs a number")? {
        "-" => 0,
        n => n.parse().map_err(|_| "the number is none".to_owned())?,
    };
    let shape = words.next().ok_or("a field needs a shape")?;
    let (pointer, shape) = shape.strip_prefix('*').map_or((false, shape), |s| (true, s));
    let mut field = Field {
        name: if name == "-" { "" } else { name },
        number,
        shape: self::shape(file, shape)?,
        pointer,
        omitempty: false,
        required: false,
        inline: name == "-",
        list_type: ListType::Unset,
        list_map_keys: Vec::new(),
        map_type: MapType::Unset,
        patch: PatchStrategy::default(),
        merge_key: None,
        default: None,
        enumeration: Vec::new(),
    };
    for word in words {
        flag(&mut field, word)?;
    }
    Ok(field)
}

fn flag(field: &mut Field, word: &'static str) -> Result<(), String> {
    match word.split_once('=') {
        None => match word {
            "o" => field.omitempty = true,
            "!" => field.required = true,
            "inline" => field.inline = true,
            _ => return Err(format!("unknown flag {word:?}")),
        },
        Some(("list", kind)) => {
            field.list_type = match kind {
                "map" => ListType::Map,
                "set" => ListType::Set,
                "atomic" => ListType::Atomic,
                _ => return Err(format!("unknown list type {kind:?}")),
            }
        }
        Some(("keys", keys)) => field.list_map_keys = keys.split(',').collect(),
        Some(("map", kind)) => {
            field.map_type = match kind {
                "atomic" => MapType::Atomic,
                "granular" => MapType::Granular,
                _ => return Err(format!("unknown map type {kind:?}")),
            }
        }
        Some(("patch", strategies)) => {
            for strategy in strategies.split(',') {
                match strategy {
                    "merge" => field.patch.merge = true,
                    "replace" => field.patch.replace = true,
                    "retainKeys" => field.patch.retain_keys = true,
                    _ => return Err(format!("unknown patch strategy {strategy:?}")),
                }
            }
        }
        Some(("key", key)) => field.merge_key = Some(key),
        Some(("default", json)) => {
            field.default = Some(Value::from_slice(json.as_bytes()).map_err(|e| format!("the default: {e}"))?);
        }
        Some(("enum", values)) => field.enumeration = values.split(',').collect(),
        Some((other, _)) => return Err(format!("unknown flag {other:?}")),
    }
    Ok(())
}

fn shape(file: &'static str, text: &'static str) -> Result<Shape, String> {
    if let Some(inner) = text.strip_prefix("[]") {
        return Ok(Shape::List(Box::new(shape(file, inner.trim_start_matches('*'))?)));
    }
    if let Some(inner) = text.strip_prefix("map[string]") {
        return Ok(Shape::Map(Box::new(shape(file, inner.trim_start_matches('*'))?)));
    }
    Ok(match text {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "float64" => Shape::Float64,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "quantity" => Shape::Quantity,
        "intorstring" => Shape::IntOrString,
        "rawextension" => Shape::RawExtension,
        "fieldsv1" => Shape::FieldsV1,
        "json" => Shape::Json,
        "any" => Shape::Any,
        _ => {
            let (file, local) = match text.rsplit_once('.') {
                Some(("", local)) => (file, local),
                Some((other, local)) => (other, local),
                None => (file, text),
            };
            if !local.starts_with(|c: char| c.is_ascii_uppercase()) {
                return Err(format!("unknown shape {text:?}"));
            }
            Shape::Ref(TypeName { file, local, found: OnceLock::new() })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::types;
    use super::*;

    #[test]
    fn every_flag_of_a_field_is_read() {
        let types = types();
        let spec = types.get("core/v1.PodSpec").unwrap();
        let volumes = types.member(spec, "volumes").unwrap();
        assert_eq!((volumes.number, volumes.list_type, volumes.omitempty), (1, ListType::Map, true));
        assert_eq!(volumes.list_map_keys, ["name"]);
        assert!(volumes.patch.merge && volumes.patch.retain_keys && volumes.merge_key == Some("name"));
        assert!(types.member(spec, "containers").unwrap().required);
        assert!(types.member(spec, "terminationGracePeriodSeconds").unwrap().pointer);
        let port = types.get("core/v1.ContainerPort").unwrap();
        assert_eq!(types.member(port, "protocol").unwrap().default, Some("TCP".into()));
        assert_eq!(types.get("core/v1.Pod").unwrap().proto, Some("k8s.io.api.core.v1.Pod"));
        assert!(types.get("core/v1.Nothing").is_none() && types.get("x").is_none());
    }

    #[test]
    fn inlined_structs_lend_their_members() {
        let types = types();
        let names = |name| types.members(types.get(name).unwrap()).map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names("core/v1.Volume"), ["emptyDir", "hostPath", "name"]);
        assert_eq!(names("core/v1.Pod"), ["apiVersion", "kind", "metadata", "spec", "status"]);
        let Shape::Ref(meta) = &types.member(types.get("core/v1.Pod").unwrap(), "metadata").unwrap().shape else {
            panic!("metadata is a struct")
        };
        assert_eq!(types.resolve(meta).unwrap().go_name(), "v1.ObjectMeta");
    }
}
