//! Values as Go prints them with `%#v`, which upstream's messages do for anything but texts, numbers and booleans.
//!
//! Only shapes whose print is stable are imitated; structs that hold pointers print addresses, different each time.

use machinery::Value;

/// `map[string]string{"a":"b"}`
pub(crate) fn string_map(value: &Value) -> String {
    map("map[string]string", value)
}

fn map(type_name: &str, value: &Value) -> String {
    if value.is_null() {
        return format!("{type_name}(nil)");
    }
    let entries: Vec<String> =
        value.members().map(|(k, v)| format!("{k:?}:{:?}", v.as_str().unwrap_or_default())).collect();
    format!("{type_name}{{{}}}", entries.join(", "))
}

/// `[]string{"a", "b"}`, of any type whose underlying type is string.
pub(crate) fn strings(type_name: &str, value: &Value) -> String {
    if value.is_null() {
        return format!("[]{type_name}(nil)");
    }
    let items: Vec<String> = value.items().iter().map(|v| format!("{:?}", v.as_str().unwrap_or_default())).collect();
    format!("[]{type_name}{{{}}}", items.join(", "))
}

/// A `metav1.LabelSelector`.
pub(crate) fn selector(value: &Value) -> String {
    let requirement = |e: &Value| {
        format!(
            "v1.LabelSelectorRequirement{{Key:{:?}, Operator:{:?}, Values:{}}}",
            e.str_at(&["key"]),
            e.str_at(&["operator"]),
            strings("string", &e["values"])
        )
    };
    let expressions = match &value["matchExpressions"] {
        Value::Null => "[]v1.LabelSelectorRequirement(nil)".to_owned(),
        list => {
            let items: Vec<String> = list.items().iter().map(requirement).collect();
            format!("[]v1.LabelSelectorRequirement{{{}}}", items.join(", "))
        }
    };
    format!("v1.LabelSelector{{MatchLabels:{}, MatchExpressions:{expressions}}}", string_map(&value["matchLabels"]))
}

/// An `intstr.IntOrString`.
pub(crate) fn int_or_string(value: &Value) -> String {
    let kind = u8::from(value.as_str().is_some());
    let (number, text) = (value.as_i64().unwrap_or(0), value.as_str().unwrap_or_default());
    format!("intstr.IntOrString{{Type:{kind}, IntVal:{number}, StrVal:{text:?}}}")
}

/// A `resource.Quantity` as it was read.
pub(crate) fn quantity(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let format = if text.contains('i') { "BinarySI" } else { "DecimalSI" };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale: i64 = match text.trim_start_matches(digits) {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        _ => 0,
    } - i64::try_from(fraction.len()).unwrap_or(0);
    let number: i64 = format!("{whole}{fraction}").parse().unwrap_or(0);
    let shown = if fraction.is_empty() { text.as_str() } else { "" };
    format!(
        "resource.Quantity{{i:resource.int64Amount{{value:{number}, scale:{scale}}}, d:resource.infDecAmount{{Dec:(*inf.Dec)(nil)}}, s:{shown:?}, Format:{format:?}}}"
    )
}

/// A `core.ResourceList`.
pub(crate) fn resource_list(value: &Value) -> String {
    if value.is_null() {
        return "core.ResourceList(nil)".to_owned();
    }
    let entries: Vec<String> = value.members().map(|(k, v)| format!("{k:?}:{}", quantity(v))).collect();
    format!("core.ResourceList{{{}}}", entries.join(", "))
}

/// `[]byte{0x78}`
pub(crate) fn bytes(bytes: &[u8]) -> String {
    let items: Vec<String> = bytes.iter().map(|b| format!("{b:#x}")).collect();
    format!("[]byte{{{}}}", items.join(", "))
}
