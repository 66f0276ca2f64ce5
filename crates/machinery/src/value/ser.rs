//! Writing values with serde.

use serde::ser::{Serialize, Serializer};

use super::{Object, Value};

/// Go prints whole floats without an exponent up to 1e21; so do we, as far as integers reach.
const WHOLE_FLOAT_MAX: f64 = 9.2e18;

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::Int(n) => serializer.serialize_i64(*n),
            // Go's encoding/json prints 1.0 as 1.
            Self::Float(n) if n.fract() == 0.0 && n.abs() < WHOLE_FLOAT_MAX => serializer.serialize_i64(*n as i64),
            Self::Float(n) => serializer.serialize_f64(*n),
            Self::String(s) => serializer.serialize_str(s),
            Self::Array(a) => serializer.collect_seq(a),
            Self::Object(o) => o.serialize(serializer),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}
