//! Tokens, claims and authentication files, mutated: whatever comes, it is answered, and claims are never read as somebody else's.

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fuzz::Fuzz;
use machinery::{Value, json};
use policy::authn::BearerToken;
use policy::jwt::AuthenticationConfig;

const CONFIG: &str = r#"
apiVersion: apiserver.config.k8s.io/v1beta1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: https://issuer.example.com, audiences: [two]}
  claimMappings:
    username: {claim: email, prefix: "x:"}
    groups: {expression: "dyn(claims.roles).map(r, 'g:' + r)"}
    uid: {claim: sub}
    extra:
    - {key: example.org/hd, valueExpression: claims.hd}
  claimValidationRules:
  - {expression: "claims.hd == 'example.com'", message: wrong domain}
  userValidationRules:
  - {expression: "!user.username.startsWith('x:root')", message: no root}
"#;

fn part(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example.com", "aud": ["two"], "exp": 2000, "nbf": 900, "sub": "7", "roles": ["dev", "ops"],
        "email": "jane@example.com", "email_verified": true, "hd": "example.com", "jti": "j"})
}

#[test]
fn any_bearer_token_has_a_kind() {
    let jwt = format!("{}.{}.{}", part(r#"{"alg":"RS256","kid":"k"}"#), part(&claims().to_string()), part("signature"));
    let seeds = [jwt, "abcdef.0123456789abcdef".to_owned(), "ya29.opaque_token-x".to_owned()];
    Fuzz::of(seeds).words([".", "..", "=", "\0", "é", "eyJhbGciOiJub25lIn0"]).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        match BearerToken::of(&text) {
            BearerToken::Jwt { .. } => assert_eq!(text.matches('.').count(), 2, "{text}"),
            BearerToken::Bootstrap { id, secret } => assert_eq!(format!("{id}.{secret}"), text),
            BearerToken::Opaque => {}
        }
    });
}

#[test]
fn mutated_claims_name_whom_they_say_or_nobody() {
    let rules = AuthenticationConfig::parse(CONFIG.as_bytes(), &[], &["RS256"]).unwrap().jwt.remove(0);
    let now = Timestamp::from_unix_seconds(1000);
    let words = [
        r#""email":"root@example.com","#,
        r#""aud":"one","#,
        r#""exp":1e999,"#,
        r#""exp":-1,"#,
        "[[[[",
        "\\ud800",
        "null",
        "{}",
        r#""email_verified":"true","#,
        r#""hd":["example.com"],"#,
        "9223372036854775808",
        "\u{0}",
        r#""roles":{"a":[1]},"#,
    ];
    Fuzz::of([claims().to_string()]).words(words).run(|bytes| {
        let Ok(claims) = Value::from_slice(bytes) else { return };
        let Ok(user) = rules.user(&claims, now) else { return };
        assert_eq!(user.name, format!("x:{}", claims.str_at(&["email"])));
        assert!(!user.name.starts_with("x:root"), "{user:?}");
        assert!(claims["exp"].as_f64().is_some_and(|exp| exp >= 1000.0), "{claims}");
        assert_eq!((claims.str_at(&["iss"]), claims.str_at(&["hd"])), ("https://issuer.example.com", "example.com"));
        assert!(user.groups.iter().all(|group| group.starts_with("g:") || group == "system:authenticated"), "{user:?}");
    });
}

#[test]
fn any_authentication_file_is_read_or_refused() {
    let words = [
        "jwt:\n",
        "- ",
        "&a ",
        "*a",
        "<<: ",
        "{",
        "}",
        "certificateAuthority: |\n  x\n",
        "anonymous: {enabled: true}\n",
        "'",
        "claims.",
    ];
    Fuzz::of([CONFIG]).words(words).costly(4).run(|bytes| {
        if let Ok(config) = AuthenticationConfig::parse(bytes, &["https://own".to_owned()], &["RS256"]) {
            assert!(config.jwt.iter().all(|rules| rules.issuer != "https://own" && !rules.audiences.is_empty()));
        }
    });
}
