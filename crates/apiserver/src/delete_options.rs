//! The options of a deletion, from its body or else from its query.

use machinery::{Reason, Status, Value, protobuf, schema};
use registry::DeleteOptions;

use crate::decode::{Media, go_word, json_error, media_of, not_of_kind};
use crate::message::Body;
use crate::server::Call;

const TYPE: &str = "meta/v1.DeleteOptions";

impl Call<'_> {
    /// The query counts where there is no body.
    ///
    /// # Errors
    /// A body that cannot be read is an error without a reason, as upstream makes no status of it: 500. A query is 400.
    pub(crate) fn delete_options(&self) -> Result<DeleteOptions, Status> {
        if self.has_body() {
            let sent = self.sent_options()?;
            return Ok(DeleteOptions::from_value(&sent));
        }
        let mut options = DeleteOptions::default();
        match self.query.get("gracePeriodSeconds") {
            "" => {}
            text => {
                let why = |_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
                options.grace_period_seconds = Some(text.parse().map_err(why)?);
            }
        }
        if self.query.has("propagationPolicy") {
            options.propagation_policy = Some(self.query.get("propagationPolicy").to_owned());
        }
        if self.query.has("orphanDependents") {
            options.orphan_dependents = Some(self.query.flag("orphanDependents"));
        }
        options.dry_run.extend(self.query.all("dryRun").filter(|d| !d.is_empty()).map(str::to_owned));
        Ok(options)
    }

    fn sent_options(&self) -> Result<Value, Status> {
        let refused = |why: String| Status::new(Reason::Unknown, why);
        let mut options = match &self.body {
            Body::Tree(tree) => tree.clone(),
            Body::Bytes(bytes) => match media_of(self.content_type())? {
                Media::Json => {
                    let why = |e| refused(no_type(&json_error(bytes, &e)));
                    Value::from_slice(bytes).map_err(why)?
                }
                Media::Yaml => machinery::yaml::to_value(bytes).map_err(|e| refused(yaml_error(&e.to_string())))?,
                Media::Protobuf if bytes.starts_with(protobuf::MAGIC) => {
                    let unknown = protobuf::unwrap_unknown(bytes).map_err(&refused)?;
                    check_kind(&unknown.api_version, &unknown.kind).map_err(&refused)?;
                    return protobuf::decode_object(&self.server.types, TYPE, &unknown).map_err(refused);
                }
                Media::Protobuf => {
                    return Err(refused(crate::decode::NO_PROTOBUF.to_owned()));
                }
            },
            Body::Empty => Value::object(),
        };
        if options.is_null() {
            options = Value::object();
        }
        read(&self.server.types, &mut options).map_err(refused)?;
        Ok(options)
    }
}

/// Checks kind and types of the options.
fn read(types: &schema::Types, options: &mut Value) -> Result<(), String> {
    if options.as_object().is_none() {
        return Err(no_type(&not_of_kind(options)));
    }
    for member in ["kind", "apiVersion"] {
        let value = &options[member];
        if value.as_str().is_none() && !value.is_null() {
            let what = go_word(value);
            return Err(no_type(&format!(
                "json: cannot unmarshal {what} into Go struct field .{member} of type string"
            )));
        }
    }
    check_kind(options.str_at(&["apiVersion"]), options.str_at(&["kind"]))?;
    schema::decode(types, TYPE, options).map(drop)
}

/// Options of any group and version are taken, even of one that is not there.
fn check_kind(api_version: &str, kind: &str) -> Result<(), String> {
    if api_version.matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {api_version}"));
    }
    if kind.is_empty() || kind == "DeleteOptions" {
        return Ok(());
    }
    let version = if api_version.is_empty() { "meta.k8s.io/v1" } else { api_version };
    Err(format!("no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:110\""))
}

fn no_type(why: &str) -> String {
    format!("couldn't get version/kind; json parse error: {why}")
}

/// Go's converter does not say what it was doing.
fn yaml_error(why: &str) -> String {
    why.trim_start_matches("error converting YAML to JSON: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kube-apiserver 1.33 said.
    #[test]
    fn options_are_read_as_upstream_reads_them() {
        let types = schema::Types::new(facts::newest().types);
        for (text, said) in [
            (r#"{"kind":"DeleteOptions","apiVersion":"foo/v1","foo":1}"#, ""),
            (r#"{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1"}"#, ""),
            (r#"{"apiVersion":"v1"}"#, ""),
            (
                "[]",
                r#"couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#,
            ),
            (
                r#"{"kind":5}"#,
                "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string",
            ),
            (
                r#"{"kind":"Foo"}"#,
                "no kind \"Foo\" is registered for version \"meta.k8s.io/v1\" in scheme \"pkg/runtime/scheme.go:110\"",
            ),
            (
                r#"{"kind":"ConfigMap","apiVersion":"v1"}"#,
                "no kind \"ConfigMap\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:110\"",
            ),
            (r#"{"kind":"DeleteOptions","apiVersion":"a/b/c"}"#, "unexpected GroupVersion string: a/b/c"),
            (
                r#"{"gracePeriodSeconds":"x"}"#,
                "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
            ),
            (
                r#"{"gracePeriodSeconds":1.5}"#,
                "json: cannot unmarshal number 1.5 into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
            ),
            (
                r#"{"orphanDependents":"x"}"#,
                "json: cannot unmarshal string into Go struct field DeleteOptions.orphanDependents of type bool",
            ),
            (
                r#"{"preconditions":[]}"#,
                "json: cannot unmarshal array into Go struct field DeleteOptions.preconditions of type v1.Preconditions",
            ),
            (
                r#"{"dryRun":"All"}"#,
                "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type []string",
            ),
        ] {
            let mut options = Value::from_slice(text.as_bytes()).unwrap();
            assert_eq!(read(&types, &mut options).err().unwrap_or_default(), said, "{text}");
        }
    }
}
