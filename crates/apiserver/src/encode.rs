//! From a reply to bytes: negotiation, shared encodings, tables, lists joined from what is encoded already.

use base::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use machinery::{Status, Value, json, protobuf};
use registry::cache::{Cached, Encoding, Format};
use registry::{IncludeObject, Resource};

use crate::decode::{Media, media_type};
use crate::message::{Content, List};
use crate::server::Inner;
use crate::watch::{WatchEvent, WatchKind, WatchObject};

/// How objects are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Whole,
    Table,
    /// `PartialObjectMetadata`
    Partial,
    /// `PartialObjectMetadataList`
    PartialList,
}

/// What the client cannot have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unacceptable {
    /// None of the media types is served.
    Media,
    /// A media type is, but not in that form.
    Form,
}

/// What the client takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) media: Media,
    pub(crate) view: View,
    pub(crate) include: IncludeObject,
    pub(crate) pretty: bool,
}

/// The first form of an Accept header that can be had; `protobuf` and `table` say whether the objects have these.
/// `application/*` is not understood upstream either.
pub(crate) fn negotiate(accept: &str, protobuf: bool, table: bool) -> Result<Wanted, Unacceptable> {
    let plain = |media| Wanted { media, view: View::Whole, include: IncludeObject::default(), pretty: false };
    if accept.trim().is_empty() {
        return Ok(plain(Media::Json));
    }
    let mut why = Unacceptable::Media;
    let found = accept.split(',').find_map(|clause| {
        let parameter = |name: &str| {
            clause.split(';').skip(1).find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let media = match media_type(clause).as_str() {
            "*/*" | "application/json" => Media::Json,
            "application/yaml" => Media::Yaml,
            "application/vnd.kubernetes.protobuf" => Media::Protobuf,
            _ => return None,
        };
        why = Unacceptable::Form;
        let view = match (parameter("as"), parameter("g"), parameter("v")) {
            ("", ..) => View::Whole,
            ("Table", "meta.k8s.io", "v1") if table && media != Media::Protobuf => View::Table,
            ("PartialObjectMetadata", "meta.k8s.io", "v1") => View::Partial,
            ("PartialObjectMetadataList", "meta.k8s.io", "v1") => View::PartialList,
            _ => return None,
        };
        let possible = media != Media::Protobuf || protobuf || matches!(view, View::Partial | View::PartialList);
        possible.then(|| Wanted { view, ..plain(media) })
    });
    found.ok_or(why)
}

/// Have these objects columns? Reviews, discovery and what else is stored nowhere have none, scales apart.
pub(crate) fn has_table(content: &Content) -> bool {
    !matches!(content, Content::Tree { type_name, .. } if !type_name.ends_with(".Scale"))
}

impl Wanted {
    pub(crate) fn content_type(&self, watch: bool) -> String {
        let stream = if watch { ";stream=watch" } else { "" };
        match self.media {
            Media::Json => "application/json".to_owned(),
            Media::Yaml => format!("application/yaml{stream}"),
            Media::Protobuf => format!("application/vnd.kubernetes.protobuf{stream}"),
        }
    }
}

const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAM_TYPES: &str = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

impl Unacceptable {
    /// The 406 in the router's words, or in those of the objects' serializer.
    pub(crate) fn status(self, content: &Content) -> Status {
        let reason = machinery::Reason::NotAcceptable;
        match self {
            Self::Media => {
                let streams = if matches!(content, Content::List(_) | Content::Watch(_)) { STREAM_TYPES } else { "" };
                let text = format!("406: Not Acceptable\n\nAvailable representations: {MEDIA_TYPES}{streams}");
                Status::generic(reason, text)
            }
            Self::Form => Status::new(reason, format!("only the following media types are accepted: {MEDIA_TYPES}")),
        }
    }
}

/// 406 when a list is asked for in the form of an object or the other way round.
pub(crate) fn check_view(view: View, content: &Content) -> Result<(), Status> {
    let refused = |text| Err(Status::new(machinery::Reason::NotAcceptable, text));
    let internal =
        |row: &Resource| row.gvk.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core").to_owned();
    match (view, content) {
        (View::Partial, Content::List(list)) => refused(format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{}.{})",
            internal(&list.row),
            list.row.list_kind()
        )),
        (View::PartialList, Content::Object { row, .. }) => refused(format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{}.{})",
            internal(row),
            row.gvk.kind
        )),
        _ => Ok(()),
    }
}

/// Metadata of objects as Go lists it: nil, not empty, when there is none (upstream's conversion appends to nil).
fn go_list(items: Value, media: Media) -> Value {
    if items.items().is_empty() && media != Media::Protobuf { Value::Null } else { items }
}

/// Encodes for one server at one moment.
pub(crate) struct Encoder<'a> {
    pub(crate) server: &'a Inner,
    pub(crate) wanted: Wanted,
    pub(crate) now: Timestamp,
}

impl Encoder<'_> {
    /// The bytes of anything but a watch.
    pub(crate) fn content(&self, content: &Content) -> Bytes {
        match content {
            Content::Status(status) => self.tree(&status.to_value(), "meta/v1.Status"),
            Content::Tree { object, type_name } => self.tree(object, type_name),
            Content::Object { object, row } => self.object(object, row),
            Content::List(list) => self.list(list),
            Content::Bytes { body, .. } => body.clone(),
            Content::Watch(_) => Bytes::new(),
        }
    }

    /// An object that is encoded for this reply alone.
    pub(crate) fn tree(&self, object: &Value, type_name: &str) -> Bytes {
        match self.wanted.media {
            Media::Protobuf if !type_name.is_empty() => {
                match protobuf::encode_object(&self.server.types, type_name, object) {
                    Ok(bytes) => bytes.into(),
                    Err(error) => {
                        tracing::error!(%error, type_name, "encoding protobuf");
                        Bytes::from(object.to_vec())
                    }
                }
            }
            Media::Yaml => machinery::yaml::from_value(object).into(),
            Media::Json | Media::Protobuf if self.wanted.pretty => {
                let mut bytes = machinery::serde_json::to_vec_pretty(object).unwrap_or_else(|_| object.to_vec());
                bytes.push(b'\n');
                bytes.into()
            }
            Media::Json | Media::Protobuf => {
                let mut bytes = object.to_vec();
                bytes.push(b'\n');
                bytes.into()
            }
        }
    }

    fn object(&self, object: &Cached, row: &Resource) -> Bytes {
        match (self.wanted.view, self.wanted.media) {
            (View::Whole, Media::Json) if !self.wanted.pretty => {
                let shared = self.shared(object, row, Format::Json);
                let mut bytes = BytesMut::with_capacity(shared.len() + 1);
                bytes.put_slice(&shared);
                bytes.put_u8(b'\n');
                bytes.freeze()
            }
            (View::Whole, Media::Protobuf) => self.shared(object, row, Format::Protobuf),
            (View::Whole, _) => self.tree(&registry::convert(&object.object, row), row.type_name()),
            (View::Table, _) => {
                let version = object.object["metadata"]["resourceVersion"].clone();
                let mut metadata = Value::object();
                metadata.set("resourceVersion", version);
                self.tree(&self.table([object].into_iter(), row, metadata, true), "")
            }
            (View::Partial | View::PartialList, _) => {
                self.tree(&registry::partial_metadata(&object.object), "meta/v1.PartialObjectMetadata")
            }
        }
    }

    /// The encoding of a cached object, made once.
    fn shared(&self, object: &Cached, row: &Resource, format: Format) -> Bytes {
        let encoding = Encoding { api_version: row.api_version().into(), format };
        object.encoded(&encoding, |stored| {
            let converted;
            let shown = if stored.str_at(&["apiVersion"]) == encoding.api_version {
                stored
            } else {
                converted = registry::convert(stored, row);
                &converted
            };
            let types = &self.server.types;
            let made = match format {
                Format::Json => return json(row, shown),
                Format::Protobuf => protobuf::encode_object(types, row.type_name(), shown),
                Format::ProtobufItem => protobuf::encode(types, row.type_name(), shown),
            };
            made.unwrap_or_else(|error| {
                tracing::error!(%error, kind = %row.gvk.kind, "encoding protobuf");
                Vec::new()
            })
            .into()
        })
    }

    fn table<'a>(
        &self,
        objects: impl Iterator<Item = &'a Cached>,
        row: &Resource,
        metadata: Value,
        headers: bool,
    ) -> Value {
        let shown: Vec<Value> = objects.map(|o| registry::convert(&o.object, row)).collect();
        registry::table(row, &shown, metadata, self.wanted.include, headers, self.now)
    }

    fn list(&self, list: &List) -> Bytes {
        let mut metadata = Value::object();
        metadata.set("resourceVersion", list.resource_version.to_string());
        if !list.continue_token.is_empty() {
            metadata.set("continue", list.continue_token.as_str());
        }
        if let Some(remaining) = list.remaining {
            metadata.set("remainingItemCount", remaining);
        }
        let row = &list.row;
        if row.custom.is_some() && self.wanted.view == View::Whole && list.continue_token.is_empty() {
            // Lists of custom resources are no Go structs, and print it empty.
            metadata.set("continue", "");
        }
        let objects = list.items.iter().map(AsRef::as_ref);
        match (self.wanted.view, self.wanted.media) {
            (View::Whole, Media::Json) if !self.wanted.pretty => {
                let parts: Vec<Bytes> = objects.map(|o| self.shared(o, row, Format::Json)).collect();
                // Items of built-in lists do not say their kind, as Go's do not: the part up to the next member goes.
                let skipped = if row.custom.is_some() { 0 } else { type_members(row).len() + 1 };
                let size: usize = parts.iter().map(|p| p.len() + 1).sum();
                let mut bytes = BytesMut::with_capacity(size + 256);
                let head = format!(
                    "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{metadata},\"items\":[",
                    row.list_kind(),
                    row.api_version()
                );
                bytes.put_slice(head.as_bytes());
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        bytes.put_u8(b',');
                    }
                    if skipped > 0 {
                        bytes.put_u8(b'{');
                    }
                    bytes.put_slice(&part[skipped..]);
                }
                bytes.put_slice(b"]}\n");
                bytes.freeze()
            }
            (View::Whole, Media::Protobuf) => {
                let parts: Vec<Bytes> = objects.map(|o| self.shared(o, row, Format::ProtobufItem)).collect();
                let items = parts.iter().map(AsRef::as_ref);
                protobuf::encode_list(&self.server.types, &row.api_version(), &row.list_kind(), &metadata, items)
                    .map(Bytes::from)
                    .unwrap_or_default()
            }
            (View::Table, _) => self.tree(&self.table(objects, row, metadata, true), ""),
            (view, _) => {
                let partial = view != View::Whole;
                let mut value = if partial {
                    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"})
                } else {
                    json!({"kind": row.list_kind(), "apiVersion": row.api_version()})
                };
                value.set("metadata", metadata);
                let items: Value = objects
                    .map(|o| {
                        if partial {
                            return registry::partial_metadata(&o.object);
                        }
                        let mut item = registry::convert(&o.object, row);
                        if row.custom.is_none() {
                            item.remove("apiVersion");
                            item.remove("kind");
                        }
                        item
                    })
                    .collect();
                value.set("items", if partial { go_list(items, self.wanted.media) } else { items });
                self.tree(&value, "meta/v1.PartialObjectMetadataList")
            }
        }
    }

    /// One frame of a watch; `first` events of a Table watch carry its columns.
    pub(crate) fn event(&self, event: &WatchEvent, row: &Resource, first: bool, out: &mut BytesMut) {
        let word = event.kind.as_str();
        let object = match &event.object {
            WatchObject::Tree(tree) => match (event.kind, self.wanted.view, self.wanted.media) {
                (WatchKind::Error, _, _) => self.tree(tree, "meta/v1.Status"),
                (_, View::Table, _) => {
                    let metadata = tree["metadata"].clone();
                    let mut table = registry::table(row, [tree], metadata, self.wanted.include, first, self.now);
                    table["metadata"].remove("creationTimestamp");
                    self.tree(&table, "")
                }
                (_, View::Partial | View::PartialList, _) => {
                    self.tree(&registry::partial_metadata(tree), "meta/v1.PartialObjectMetadata")
                }
                _ => self.tree(tree, row.type_name()),
            },
            WatchObject::Cached(cached) => match (self.wanted.view, self.wanted.media) {
                (View::Whole, Media::Json) => self.shared(cached, row, Format::Json),
                (View::Whole, Media::Protobuf) => self.shared(cached, row, Format::Protobuf),
                (View::Table, _) => {
                    let mut metadata = Value::object();
                    metadata.set("resourceVersion", cached.object["metadata"]["resourceVersion"].clone());
                    self.tree(&self.table([cached.as_ref()].into_iter(), row, metadata, first), "")
                }
                _ => self.object(cached, row),
            },
        };
        match self.wanted.media {
            Media::Protobuf => {
                let message = protobuf::watch_event(word, &object);
                out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
                out.put_slice(&message);
            }
            Media::Yaml => {
                let mut frame = json!({"type": word});
                frame.set("object", machinery::yaml::to_value(&object).unwrap_or_default());
                out.put_slice(machinery::yaml::from_value(&frame).as_bytes());
                out.put_slice(b"---\n");
            }
            Media::Json => {
                out.put_slice(b"{\"type\":\"");
                out.put_slice(word.as_bytes());
                out.put_slice(b"\",\"object\":");
                out.put_slice(object.trim_ascii_end());
                out.put_slice(b"}\n");
            }
        }
    }
}

/// How the JSON of a built-in kind begins: Go prints these two first.
fn type_members(row: &Resource) -> String {
    format!("{{\"kind\":{:?},\"apiVersion\":{:?}", row.gvk.kind, row.api_version())
}

/// The JSON of an object; a built-in's begins with [`type_members`] and goes on with another member.
fn json(row: &Resource, object: &Value) -> Bytes {
    if row.custom.is_some() {
        return object.to_vec().into();
    }
    let mut bytes = BytesMut::from(type_members(row).as_bytes());
    for (name, member) in object.members().filter(|(name, _)| !matches!(*name, "kind" | "apiVersion")) {
        bytes.put_u8(b',');
        bytes.put_slice(&Value::from(name).to_vec());
        bytes.put_u8(b':');
        bytes.put_slice(&member.to_vec());
    }
    bytes.put_u8(b'}');
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_json_begins_with_the_type() {
        let registry = registry::Registry::builtin(facts::set("1.33").unwrap(), &registry::Options::default()).unwrap();
        let row = registry.lookup("", "v1", "configmaps").unwrap();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "metadata": {"name": "x"}});
        let text = r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":"b"},"metadata":{"name":"x"}}"#;
        assert_eq!(json(row, &object), text);
        assert_eq!(&text[type_members(row).len() + 1..], r#""data":{"a":"b"},"metadata":{"name":"x"}}"#);
    }

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let cases = [
            ("", true, Some((Media::Json, View::Whole))),
            (table, true, Some((Media::Json, View::Table))),
            ("application/vnd.kubernetes.protobuf,application/json", true, Some((Media::Protobuf, View::Whole))),
            ("application/vnd.kubernetes.protobuf,application/json", false, Some((Media::Json, View::Whole))),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,*/*",
                true,
                Some((Media::Json, View::Whole)),
            ),
            ("text/html", true, None),
            ("application/*", true, None),
            ("application/json;as=Nope;v=v1;g=meta.k8s.io", true, None),
        ];
        for (accept, protobuf, expect) in cases {
            assert_eq!(negotiate(accept, protobuf, true).map(|w| (w.media, w.view)).ok(), expect, "{accept}");
        }
        assert_eq!(negotiate("text/html", true, true), Err(Unacceptable::Media));
        assert_eq!(negotiate("application/json;as=Nope;v=v1;g=meta.k8s.io", true, true), Err(Unacceptable::Form));
        // What has no columns is shown whole to those who take that too.
        let review =
            Content::Tree { object: Value::Null, type_name: "authorization/v1.SelfSubjectAccessReview".into() };
        assert!(!has_table(&review));
        assert_eq!(negotiate(table, false, false).map(|w| w.view), Ok(View::Whole));
        assert_eq!(negotiate("application/json;as=Table;v=v1;g=meta.k8s.io", false, false), Err(Unacceptable::Form));
    }
}
