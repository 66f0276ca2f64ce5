//! Protobuf as Kubernetes speaks it: the `k8s\0` envelope, and messages decoded and encoded by table.
//!
//! ```text
//! k8s\0 Unknown{ typeMeta{apiVersion, kind}, raw: the object's message, contentEncoding, contentType }
//! ```

mod decode;
mod encode;
pub(crate) mod wire;

pub use decode::decode;
pub use encode::encode;

use crate::schema::Types;
use crate::{CompactString, Value};
use wire::{Reader, Write as _};

/// What every protobuf object starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// The media type of a single object.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The contents of the envelope.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unknown<'a> {
    pub api_version: CompactString,
    pub kind: CompactString,
    /// The object's message.
    pub raw: &'a [u8],
    pub content_encoding: CompactString,
    pub content_type: CompactString,
}

/// Opens the envelope.
///
/// # Errors
/// When the bytes lack the prefix or are no message.
pub fn unwrap_unknown(bytes: &[u8]) -> Result<Unknown<'_>, String> {
    let Some(message) = bytes.strip_prefix(MAGIC) else {
        return Err(format!(
            "provided data does not appear to be a protobuf message, expected prefix [{}]",
            MAGIC.map(|b| b.to_string()).join(" ")
        ));
    };
    let mut unknown = Unknown::default();
    let mut reader = Reader(message);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => {
                let mut meta = Reader(wire.bytes()?);
                while let Some((number, wire)) = meta.field()? {
                    match number {
                        1 => unknown.api_version = wire.text()?.into(),
                        2 => unknown.kind = wire.text()?.into(),
                        _ => {}
                    }
                }
            }
            2 => unknown.raw = wire.bytes()?,
            3 => unknown.content_encoding = wire.text()?.into(),
            4 => unknown.content_type = wire.text()?.into(),
            _ => {}
        }
    }
    Ok(unknown)
}

fn open_envelope(api_version: &str, kind: &str, raw_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw_len + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    let mark = out.open(1);
    out.put_bytes(1, api_version.as_bytes());
    out.put_bytes(2, kind.as_bytes());
    out.close(mark);
    out
}

fn close_envelope(out: &mut Vec<u8>) {
    out.put_bytes(3, &[]);
    out.put_bytes(4, &[]);
}

/// Puts an object's message into the envelope.
pub fn wrap_unknown(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = open_envelope(api_version, kind, raw.len());
    out.put_bytes(2, raw);
    close_envelope(&mut out);
    out
}

/// Opens the envelope and decodes the object in it as type `type_name`, with `apiVersion` and `kind` in place.
///
/// # Errors
/// As [`unwrap_unknown`] and [`decode`].
pub fn decode_object(types: &Types, type_name: &str, unknown: &Unknown<'_>) -> Result<Value, String> {
    let mut object = decode(types, type_name, unknown.raw)?;
    for (key, text) in [("apiVersion", &unknown.api_version), ("kind", &unknown.kind)] {
        if !text.is_empty() && object.as_object().is_some() {
            object.set(key, text.clone());
        }
    }
    Ok(object)
}

/// Encodes an object and puts it into the envelope, with its own `apiVersion` and `kind`.
///
/// # Errors
/// As [`encode`].
pub fn encode_object(types: &Types, type_name: &str, object: &Value) -> Result<Vec<u8>, String> {
    let raw = encode(types, type_name, object)?;
    Ok(wrap_unknown(object.str_at(&["apiVersion"]), object.str_at(&["kind"]), &raw))
}

/// A list in its envelope, joined from messages of its items (as [`Unknown::raw`] has them).
///
/// # Errors
/// When `metadata` is no `ListMeta`.
pub fn encode_list<'a>(
    types: &Types,
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<Vec<u8>, String> {
    let meta = encode(types, "meta/v1.ListMeta", metadata)?;
    let mut raw_len = meta.len() + 1 + varint_len(meta.len());
    raw_len += items.clone().map(|i| i.len() + 1 + varint_len(i.len())).sum::<usize>();
    let mut out = open_envelope(api_version, kind, raw_len);
    out.put_tag(2, 2);
    out.put_varint(raw_len as u64);
    out.put_bytes(1, &meta);
    items.for_each(|item| out.put_bytes(2, item));
    close_envelope(&mut out);
    Ok(out)
}

const fn varint_len(n: usize) -> usize {
    let bits = (usize::BITS - (n | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

/// A `metav1.WatchEvent`; `object` is whole, envelope included.
pub fn watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + event_type.len() + 16);
    put_watch_event(&mut out, event_type, object);
    out
}

fn put_watch_event(out: &mut Vec<u8>, event_type: &str, object: &[u8]) {
    out.put_bytes(1, event_type.as_bytes());
    out.put_tag(2, 2);
    out.put_varint((1 + varint_len(object.len()) + object.len()) as u64);
    out.put_bytes(1, object);
}

/// A watch event as it goes into the stream: four bytes of length (big-endian), then the event.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + event_type.len() + 20);
    out.extend_from_slice(&[0; 4]);
    put_watch_event(&mut out, event_type, object);
    let len = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
