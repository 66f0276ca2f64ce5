//! The few pieces of DER (X.690) that are written here: rcgen keeps one value per attribute type in a name, while a
//! Kubernetes user has an organization for each group (RFC 5280 §4.1.2.4 allows any number).

use rcgen::{CertificateParams, KeyPair, SigningKey};

use crate::SignerError;

const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// X.520's commonName, 2.5.4.3, and organizationName, 2.5.4.10.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];
/// X.520's countryName, whose value is no UTF-8 (RFC 5280, appendix A.1).
const COUNTRY: [u8; 3] = [0x55, 0x04, 0x06];
/// What stands before the subject in a TBSCertificate: version, serial number, algorithm, issuer, validity.
const BEFORE_SUBJECT: usize = 5;
/// The algorithm's place among them, and the issuer's.
const ALGORITHM: usize = 2;
const ISSUER: usize = 3;

/// A `Name`: one relative name for each organization, then the common name.
pub(crate) fn name(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let groups = organizations.iter().map(|group| relative_name(&ORGANIZATION, group));
    let names: Vec<u8> = groups.chain([relative_name(&COMMON_NAME, common_name)]).flatten().collect();
    element(SEQUENCE, &names)
}

/// A `Name` of attributes of any type, each a relative name of its own; `None` when a type is no object identifier.
pub(crate) fn name_of<'a>(attributes: impl Iterator<Item = (&'a [u64], &'a str)>) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    for (kind, value) in attributes {
        let kind = x509_parser::oid_registry::Oid::from(kind).ok()?;
        names.extend(relative_name(kind.as_bytes(), value));
    }
    Some(element(SEQUENCE, &names))
}

fn relative_name(attribute: &[u8], value: &str) -> Vec<u8> {
    let string = if attribute == COUNTRY { PRINTABLE_STRING } else { UTF8_STRING };
    let parts = [element(OBJECT_IDENTIFIER, attribute), element(string, value.as_bytes())].concat();
    element(SET, &element(SEQUENCE, &parts))
}

/// A TBSCertificate with another subject, and another issuer if one is given; and its signature algorithm.
///
/// # Errors
/// When it is no TBSCertificate.
pub(crate) fn with_names<'a>(
    tbs: &'a [u8],
    issuer: Option<&[u8]>,
    subject: &[u8],
) -> Result<(Vec<u8>, &'a [u8]), SignerError> {
    let damaged = || SignerError::BadRequest("the certificate cannot be written".to_owned());
    let (head, whole, _) = split(tbs).filter(|(.., rest)| rest.is_empty()).ok_or_else(damaged)?;
    let content = &whole[head..];
    let (mut rest, mut algorithm, mut before) = (content, content, Vec::new());
    for place in 0..BEFORE_SUBJECT {
        let (_, first, after) = split(rest).ok_or_else(damaged)?;
        if place == ALGORITHM {
            algorithm = first;
        }
        before.extend(issuer.filter(|_| place == ISSUER).unwrap_or(first));
        rest = after;
    }
    let (.., after) = split(rest).ok_or_else(damaged)?;
    Ok((element(SEQUENCE, &[&before, subject, after].concat()), algorithm))
}

/// A signing request with this subject, a DER `Name`, signed by the key (RFC 2986 §4).
///
/// # Errors
/// When the request cannot be written.
pub(crate) fn request(params: &CertificateParams, subject: &[u8], key: &KeyPair) -> Result<Vec<u8>, SignerError> {
    let failed = |e: rcgen::Error| SignerError::KeyGeneration(e.to_string());
    let damaged = || SignerError::BadRequest("the request cannot be written".to_owned());
    let written = params.serialize_request(key).map_err(failed)?;
    // SEQUENCE { info SEQUENCE { version, subject, key, attributes }, algorithm, signature }
    let (head, whole, _) = split(written.der()).ok_or_else(damaged)?;
    let (info, info_whole, after) = split(&whole[head..]).ok_or_else(damaged)?;
    let (_, algorithm, _) = split(after).ok_or_else(damaged)?;
    let (_, version, rest) = split(&info_whole[info..]).ok_or_else(damaged)?;
    let (.., rest) = split(rest).ok_or_else(damaged)?;
    let info = element(SEQUENCE, &[version, subject, rest].concat());
    let signature = key.sign(&info).map_err(failed)?;
    Ok(certificate(&info, algorithm, &signature))
}

/// A certificate, or a request, out of its three parts.
pub(crate) fn certificate(tbs: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    // A bit string begins with the number of bits that its last byte leaves out.
    let signature = element(BIT_STRING, &[&[0], signature].concat());
    element(SEQUENCE, &[tbs, algorithm, &signature].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            out.push(0x80 | u8::try_from(length.len() - zeros).expect("a length has at most eight bytes"));
            out.extend(&length[zeros..]);
        }
    }
    out.extend(content);
    out
}

/// The length of the first element's head, the element, and what follows it.
fn split(der: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let first = usize::from(*der.get(1)?);
    let (head, length) = if first < 0x80 {
        (2, first)
    } else {
        let digits = der.get(2..2 + (first & 0x7f)).filter(|digits| (1..=4).contains(&digits.len()))?;
        (2 + digits.len(), digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)))
    };
    let end = head.checked_add(length).filter(|end| *end <= der.len())?;
    Some((head, &der[..end], &der[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_their_shortest_form_and_read_again() {
        for (length, head) in [(0, 2), (127, 2), (128, 3), (255, 3), (256, 4), (70_000, 5)] {
            let written = element(SEQUENCE, &vec![7; length]);
            assert_eq!(written.len(), head + length);
            assert_eq!(split(&written), Some((head, written.as_slice(), &[][..])));
        }
        for broken in [&[][..], &[0x30], &[0x30, 2, 1], &[0x30, 0x80], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x82, 1]] {
            assert_eq!(split(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_subject_takes_the_place_of_another() {
        let parts: Vec<Vec<u8>> = (0..7).map(|i| element(SEQUENCE, &[i])).collect();
        let subject = name("jane", &["a".to_owned(), "b".to_owned()]);
        let tbs = element(SEQUENCE, &parts.concat());
        let (changed, algorithm) = with_names(&tbs, None, &subject).unwrap();
        let expected = [&parts[..5].concat(), &subject, &parts[6]].map(Vec::as_slice).concat();
        assert_eq!((changed, algorithm), (element(SEQUENCE, &expected), parts[2].as_slice()));
        let issuer = name("root", &[]);
        let (changed, _) = with_names(&tbs, Some(&issuer), &subject).unwrap();
        let expected = [&parts[..3].concat(), &issuer, &parts[4], &subject, &parts[6]].map(Vec::as_slice).concat();
        assert_eq!(changed, element(SEQUENCE, &expected));
        assert!(with_names(&tbs[..9], None, &subject).is_err());
    }
}
