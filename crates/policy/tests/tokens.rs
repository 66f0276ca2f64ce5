//! Properties of the token parser: whatever comes, it answers, and only what is a token in form is taken for one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::json;
use policy::authn::BearerToken;
use proptest::prelude::*;

fn part(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = BearerToken::of(&text);
    }

    #[test]
    fn any_three_parts_are_answered(a in "[A-Za-z0-9_=+/-]{0,60}", b in "[A-Za-z0-9_=+/-]{0,60}", c in "\\PC{0,60}") {
        match BearerToken::of(&format!("{a}.{b}.{c}")) {
            BearerToken::Jwt { .. } => {
                prop_assert!(URL_SAFE_NO_PAD.decode(&a).is_ok() && URL_SAFE_NO_PAD.decode(&b).is_ok());
            }
            BearerToken::Bootstrap { .. } => prop_assert!(false, "it has two dots"),
            BearerToken::Opaque => {}
        }
    }

    #[test]
    fn what_a_jwt_says_is_what_it_says(iss in "\\PC{0,40}", sub in "\\PC{0,40}", alg in "[A-Za-z0-9]{1,8}") {
        let claims = json!({"iss": iss, "sub": sub});
        let head = json!({"alg": alg}).to_string();
        let token = format!("{}.{}.x", part(&head), part(&claims.to_string()));
        prop_assert_eq!(BearerToken::of(&token), BearerToken::Jwt { claims });
    }

    #[test]
    fn a_part_more_or_less_is_no_jwt(payload in "\\PC{0,40}") {
        let (head, body) = (part(r#"{"alg":"RS256"}"#), part(&json!({"iss": payload}).to_string()));
        for token in [format!("{head}.{body}"), format!("{head}.{body}.x.y"), format!(".{head}.{body}.x"), head.clone()] {
            prop_assert_eq!(BearerToken::of(&token), BearerToken::Opaque);
        }
    }

    #[test]
    fn bootstrap_tokens_have_six_and_sixteen_letters(id in "[a-z0-9]{5,7}", secret in "[a-z0-9]{15,17}") {
        let is = matches!(BearerToken::of(&format!("{id}.{secret}")), BearerToken::Bootstrap { .. });
        prop_assert_eq!(is, id.len() == 6 && secret.len() == 16);
    }
}

/// Depth and size are bounded before anything is allocated for them.
#[test]
fn giants_are_no_tokens() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let head = part(r#"{"alg":"RS256"}"#);
    assert_eq!(BearerToken::of(&format!("{head}.{}.x", part(&deep))), BearerToken::Opaque);
    assert_eq!(BearerToken::of(&"a".repeat(10_000_000)), BearerToken::Opaque);
    let wide = json!({"iss": "x".repeat(2_000_000)});
    assert_eq!(BearerToken::of(&format!("{head}.{}.x", part(&wide.to_string()))), BearerToken::Opaque);
}
