//! What keys do for callers. Checksums that callers send are checked, and those of answers are sent along.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use gke::ApiError;
use machinery::{Value, json};

use super::{Answer, Context};
use crate::kms::{self, KeyName, Signed, User};

/// The bytes of a field, and whether the checksum beside it was sent, and is theirs.
struct Checked {
    bytes: Vec<u8>,
    verified: bool,
}

fn bytes(body: &Value, field: &str) -> Result<Vec<u8>, ApiError> {
    let text = body.str_at(&[field]);
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| {
        let text = format!("Invalid value at '{field}' (TYPE_BYTES), Base64 decoding failed for \"{text}\"");
        ApiError::json(vec![(field.to_owned(), text)])
    })
}

fn verify(body: &Value, field: &str, bytes: &[u8]) -> Result<bool, ApiError> {
    let sum = format!("{field}Crc32c");
    let sent = match &body[sum.as_str()] {
        Value::Null => return Ok(false),
        // 64-bit numbers are text in JSON; either form is read.
        Value::String(text) => text.parse::<i64>().ok(),
        other => other.as_i64(),
    };
    if sent == Some(i64::from(crc32c::crc32c(bytes))) {
        return Ok(true);
    }
    let snake = snake(field);
    Err(ApiError::invalid(format!("The checksum in field {snake}_crc32c did not match the data in field {snake}.")))
}

fn checked(body: &Value, field: &str) -> Result<Checked, ApiError> {
    let bytes = bytes(body, field)?;
    let verified = verify(body, field, &bytes)?;
    Ok(Checked { bytes, verified })
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// Bytes with their checksum; fields that would be empty are left out.
fn put(out: &mut Value, field: &str, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.set(field, STANDARD.encode(bytes));
    }
    out.set(&format!("{field}Crc32c"), crc32c::crc32c(bytes).to_string());
}

fn set_true(out: &mut Value, field: &str, value: bool) {
    if value {
        out.set(field, true);
    }
}

impl Context<'_> {
    pub(super) fn encrypt(&self, name: &str) -> Answer {
        let body = self.request.json()?;
        let (plain, aad) = (checked(&body, "plaintext")?, checked(&body, "additionalAuthenticatedData")?);
        let made = kms::encrypt(self.inner, User::caller(&self.caller.email), name, &plain.bytes, &aad.bytes)?;
        let mut out = json!({"name": made.version, "protectionLevel": "SOFTWARE"});
        put(&mut out, "ciphertext", &made.ciphertext);
        set_true(&mut out, "verifiedPlaintextCrc32c", plain.verified);
        set_true(&mut out, "verifiedAdditionalAuthenticatedDataCrc32c", aad.verified);
        Ok(out)
    }

    pub(super) fn decrypt(&self, name: &str) -> Answer {
        let body = self.request.json()?;
        let (sealed, aad) = (checked(&body, "ciphertext")?, checked(&body, "additionalAuthenticatedData")?);
        let found = kms::decrypt(self.inner, User::caller(&self.caller.email), name, &sealed.bytes, &aad.bytes)?;
        let mut out = json!({"protectionLevel": "SOFTWARE"});
        put(&mut out, "plaintext", &found.plaintext);
        set_true(&mut out, "usedPrimary", found.used_primary);
        Ok(out)
    }

    pub(super) fn sign(&self, version: &str) -> Answer {
        let body = self.request.json()?;
        let wrong = ApiError::invalid("Exactly one of digest and data must be set; these keys sign SHA-256 digests.");
        let (digest, data) = (&body["digest"], &body["data"]);
        let (signature, field, verified) = match (digest.is_null(), data.is_null()) {
            (false, true) if digest.members().all(|(name, _)| name == "sha256") => {
                let sha256 = bytes(digest, "sha256")?;
                let verified = verify(&body, "digest", &sha256)?;
                let sha256: [u8; 32] = sha256.try_into().map_err(|_| wrong)?;
                let made = kms::sign(self.inner, &self.caller.email, version, Signed::Digest(&sha256))?;
                (made, "verifiedDigestCrc32c", verified)
            }
            (true, false) => {
                let data = checked(&body, "data")?;
                let made = kms::sign(self.inner, &self.caller.email, version, Signed::Data(&data.bytes))?;
                (made, "verifiedDataCrc32c", data.verified)
            }
            _ => return Err(wrong),
        };
        let mut out = json!({"name": version, "protectionLevel": "SOFTWARE"});
        put(&mut out, "signature", &signature);
        set_true(&mut out, field, verified);
        Ok(out)
    }

    pub(super) fn public_key(&self, version: &str) -> Answer {
        let found = kms::public_key(self.inner, &self.caller.email, version)?;
        let mut out = json!({"name": version, "algorithm": found.algorithm.name(), "protectionLevel": "SOFTWARE"});
        match self.request.query("publicKeyFormat") {
            format @ ("" | "PEM") => {
                out.set("pem", found.pem.as_str());
                out.set("pemCrc32c", crc32c::crc32c(found.pem.as_bytes()).to_string());
                if !format.is_empty() {
                    out.set("publicKeyFormat", format);
                }
            }
            "DER" => {
                let sum = crc32c::crc32c(&found.der).to_string();
                out.set("publicKey", json!({"data": STANDARD.encode(&found.der), "crc32cChecksum": sum}));
                out.set("publicKeyFormat", "DER");
            }
            other => return Err(ApiError::unimplemented(&format!("publicKeyFormat {other}"))),
        }
        Ok(out)
    }

    /// Uses that no key here is for: keys for them are not made.
    pub(super) fn other_use(&self, key: &KeyName, number: u32, action: &str) -> Answer {
        let permission = match action {
            "macSign" => "useToSign",
            "macVerify" => "useToVerify",
            "rawEncrypt" => "useToEncrypt",
            _ => "useToDecrypt",
        };
        let state = self.inner.store.read();
        self.require_key(&state, key, &format!("cryptoKeyVersions.{permission}"))?;
        let found = kms::key_of(&state, key)?;
        kms::version_of(found, key, number)?;
        let wanted = match action {
            "macSign" | "macVerify" => "MAC",
            "asymmetricDecrypt" => "ASYMMETRIC_DECRYPT",
            _ => "RAW_ENCRYPT_DECRYPT",
        };
        Err(kms::wrong_purpose(key, found.algorithm.purpose(), wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_as_text_and_numbers_and_refused_when_they_are_wrong() {
        let check = |body: Value| checked(&body, "additionalAuthenticatedData").map(|c| (c.bytes, c.verified));
        let right = crc32c::crc32c(b"abc");
        let field = "additionalAuthenticatedData";
        assert_eq!(check(json!({field: "YWJj"})).unwrap(), (b"abc".to_vec(), false));
        let sum = "additionalAuthenticatedDataCrc32c";
        assert!(check(json!({field: "YWJj", sum: right.to_string()})).unwrap().1);
        assert!(check(json!({field: "YWJj", sum: right})).unwrap().1);
        for wrong in [json!("0"), json!(1), json!("x"), json!(true)] {
            let mut body = json!({field: "YWJj"});
            body.set(sum, wrong);
            let text = "The checksum in field additional_authenticated_data_crc32c did not match the data in field \
                        additional_authenticated_data.";
            assert_eq!(check(body).unwrap_err().message, text);
        }
        assert!(check(json!({field: "%"})).is_err());
    }
}
