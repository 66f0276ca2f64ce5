//! A v2 document in protobuf, by the message table of gnostic's `OpenAPIv2.proto`.
//!
//! Each row is (JSON name, number, form); members starting with `x-` go to the vendor extensions.

use crate::Value;
use crate::protobuf::wire::Write as _;

/// The media type of what [`encode_v2`] writes.
pub const V2_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// How a JSON member is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Bool,
    Int,
    Double,
    /// Any value, as YAML text in a message.
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// An object whose members are named messages of this type.
    Named(&'static Message),
    /// The one field of a wrapper message.
    Wrapped(u32, &'static Message),
    NamedWrapped(u32, &'static Message),
    /// `type`: one text or several, in a message.
    Types,
    /// `additionalProperties`: schema or boolean.
    SchemaOrBool,
    Parameters,
    Security,
    Paths,
}

struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

use Form::{Any, Anys, Bool, Double, Int, Many, Named, NamedWrapped, One, Text, Texts, Wrapped};

static CONTACT: Message = Message { fields: &[("name", 1, Text), ("url", 2, Text), ("email", 3, Text)], extensions: 4 };
static LICENSE: Message = Message { fields: &[("name", 1, Text), ("url", 2, Text)], extensions: 3 };
static INFO: Message = Message {
    fields: &[
        ("title", 1, Text),
        ("version", 2, Text),
        ("description", 3, Text),
        ("termsOfService", 4, Text),
        ("contact", 5, One(&CONTACT)),
        ("license", 6, One(&LICENSE)),
    ],
    extensions: 7,
};
static EXTERNAL_DOCS: Message = Message { fields: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };
static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("host", 3, Text),
        ("basePath", 4, Text),
        ("schemes", 5, Texts),
        ("consumes", 6, Texts),
        ("produces", 7, Texts),
        ("paths", 8, Form::Paths),
        ("definitions", 9, Named(&SCHEMA)),
        ("security", 12, Form::Security),
        ("securityDefinitions", 13, NamedWrapped(2, &API_KEY)),
        ("externalDocs", 15, One(&EXTERNAL_DOCS)),
    ],
    extensions: 16,
};
static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Int),
        ("minLength", 12, Int),
        ("pattern", 13, Text),
        ("maxItems", 14, Int),
        ("minItems", 15, Int),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Int),
        ("minProperties", 18, Int),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, Form::SchemaOrBool),
        ("type", 22, Form::Types),
        ("items", 23, Wrapped(1, &SCHEMA)),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(&SCHEMA)),
        ("discriminator", 26, Text),
        ("readOnly", 27, Bool),
        ("externalDocs", 29, One(&EXTERNAL_DOCS)),
        ("example", 30, Any),
    ],
    extensions: 31,
};
static PATH_ITEM: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Form::Parameters),
    ],
    extensions: 10,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("externalDocs", 4, One(&EXTERNAL_DOCS)),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, NamedWrapped(1, &RESPONSE)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Bool),
        ("security", 12, Form::Security),
    ],
    extensions: 13,
};
static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Wrapped(1, &SCHEMA))], extensions: 5 };
static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
};
static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("allowEmptyValue", 5, Bool),
        ("type", 6, Text),
        ("format", 7, Text),
        ("default", 10, Any),
        ("pattern", 17, Text),
        ("uniqueItems", 20, Bool),
        ("enum", 21, Anys),
    ],
    extensions: 23,
};
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("default", 9, Any),
        ("pattern", 16, Text),
        ("uniqueItems", 19, Bool),
        ("enum", 20, Anys),
    ],
    extensions: 22,
};

/// A v2 document (JSON) in protobuf. Shared parameters (`#/parameters/…`) are resolved in place; members the table does
/// not know are left out.
pub fn encode_v2(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    Encoder { document, out: &mut out }.message(&DOCUMENT, document);
    out
}

struct Encoder<'a> {
    document: &'a Value,
    out: &'a mut Vec<u8>,
}

impl<'a> Encoder<'a> {
    fn message(&mut self, message: &'static Message, value: &'a Value) {
        for (name, number, form) in message.fields {
            if let Some(member) = value.get(name).filter(|m| !m.is_null()) {
                self.member(*number, *form, member);
            }
        }
        if message.extensions > 0 {
            for (name, member) in value.members().filter(|(name, _)| name.starts_with("x-")) {
                self.named(message.extensions, name, |encoder| encoder.any(2, member));
            }
        }
    }

    fn nested(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        let mark = self.out.open(number);
        write(self);
        self.out.close(mark);
    }

    fn named(&mut self, number: u32, name: &str, write: impl FnOnce(&mut Self)) {
        self.nested(number, |encoder| {
            encoder.out.put_bytes(1, name.as_bytes());
            write(encoder);
        });
    }

    /// JSON is YAML.
    fn any(&mut self, number: u32, value: &Value) {
        self.nested(number, |encoder| {
            let mut text = value.to_string();
            text.push('\n');
            encoder.out.put_bytes(2, text.as_bytes());
        });
    }

    fn member(&mut self, number: u32, form: Form, value: &'a Value) {
        match form {
            Text => self.out.put_bytes(number, value.as_str().unwrap_or_default().as_bytes()),
            Texts => {
                value
                    .items()
                    .iter()
                    .for_each(|t| self.out.put_bytes(number, t.as_str().unwrap_or_default().as_bytes()));
            }
            Bool => self.out.put_uint(number, u64::from(value.as_bool().unwrap_or_default())),
            Int => self.out.put_uint(number, value.as_i64().unwrap_or_default() as u64),
            Double => {
                self.out.put_tag(number, 1);
                self.out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
            }
            Any => self.any(number, value),
            Anys => value.items().iter().for_each(|v| self.any(number, v)),
            One(message) => self.nested(number, |e| e.message(message, value)),
            Many(message) => value.items().iter().for_each(|v| self.nested(number, |e| e.message(message, v))),
            Named(message) => self.nested(number, |e| {
                for (name, member) in value.members() {
                    e.named(1, name, |e| e.nested(2, |e| e.message(message, member)));
                }
            }),
            Wrapped(inner, message) => self.nested(number, |e| e.nested(inner, |e| e.message(message, value))),
            NamedWrapped(inner, message) => self.nested(number, |e| {
                for (name, member) in value.members() {
                    e.named(1, name, |e| e.nested(2, |e| e.nested(inner, |e| e.message(message, member))));
                }
            }),
            Form::Types => self.nested(number, |e| match value {
                Value::String(text) => e.out.put_bytes(1, text.as_bytes()),
                other => e.member(1, Texts, other),
            }),
            Form::SchemaOrBool => self.nested(number, |e| match value {
                Value::Bool(allowed) => e.out.put_uint(2, u64::from(*allowed)),
                schema => e.nested(1, |e| e.message(&SCHEMA, schema)),
            }),
            Form::Parameters => value.items().iter().for_each(|p| self.parameter(number, p)),
            Form::Security => {
                for requirement in value.items() {
                    self.nested(number, |e| {
                        for (name, scopes) in requirement.members() {
                            e.named(1, name, |e| e.nested(2, |e| e.member(1, Texts, scopes)));
                        }
                    });
                }
            }
            Form::Paths => self.nested(number, |e| {
                for (path, item) in value.members().filter(|(path, _)| path.starts_with('/')) {
                    e.named(2, path, |e| e.nested(2, |e| e.message(&PATH_ITEM, item)));
                }
            }),
        }
    }

    fn parameter(&mut self, number: u32, parameter: &'a Value) {
        let shared = parameter.str_at(&["$ref"]).strip_prefix("#/parameters/").map(|n| &self.document["parameters"][n]);
        let parameter = shared.unwrap_or(parameter);
        let (kind, message) = match parameter.str_at(&["in"]) {
            "body" => {
                return self
                    .nested(number, |e| e.nested(1, |e| e.nested(1, |e| e.message(&BODY_PARAMETER, parameter))));
            }
            "header" => (1, &PATH_PARAMETER),
            "formData" => (2, &QUERY_PARAMETER),
            "path" => (4, &PATH_PARAMETER),
            _ => (3, &QUERY_PARAMETER),
        };
        self.nested(number, |e| e.nested(1, |e| e.nested(2, |e| e.nested(kind, |e| e.message(message, parameter)))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn a_small_document_is_written_field_by_field() {
        let document = json!({"swagger": "2.0", "x-z": true, "definitions": {"a": {"type": "string"}}});
        assert_eq!(
            encode_v2(&document),
            [
                b"\x0a\x032.0".as_slice(),
                b"\x4a\x12\x0a\x10\x0a\x01a\x12\x0b\xb2\x01\x08\x0a\x06string",
                b"\x82\x01\x0e\x0a\x03x-z\x12\x07\x12\x05true\x0a",
            ]
            .concat()
        );
    }

    #[test]
    fn parameters_are_written_by_their_place_and_shared_ones_in_full() {
        let shared = json!({"swagger": "2.0", "parameters": {"p": {"in": "query", "name": "dryRun", "type": "string"}},
            "paths": {"/a": {"get": {"parameters": [{"$ref": "#/parameters/p"}, {"in": "path", "name": "x", "type": "string"}],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/a"}}}}}}});
        let bytes = encode_v2(&shared);
        let has = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(has("dryRun") && has("#/definitions/a") && !has("#/parameters/p"));
    }
}
