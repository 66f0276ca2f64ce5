use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn to_pem(kind: &str, der: &[u8]) -> Vec<u8> {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("letters")).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n")).into_bytes()
}

fn options(method: &str, private: Option<Vec<u8>>, public: Option<Vec<u8>>) -> JwtOptions {
    let method = Method::named(method).expect("a method");
    JwtOptions { method, private, public, ttl: Duration::from_secs(60) }
}

fn jwt(method: &str, private: Option<Vec<u8>>, public: Option<Vec<u8>>) -> Jwt {
    Jwt::new(&options(method, private, public)).expect("good keys")
}

/// A new private key and its public half, in PEM.
fn keys(method: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    let spki = |der: &[u8]| Some(to_pem("PUBLIC KEY", der));
    match Method::named(method).expect("a method").kind {
        Kind::Hmac(_) => (b"a shared secret".to_vec(), None),
        Kind::Rsa(..) => {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
            let public = spki(key.public_key().as_der().expect("encodable").as_ref());
            let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().expect("encodable");
            (to_pem("PRIVATE KEY", der.as_ref()), public)
        }
        Kind::Ecdsa(algorithm, _) => {
            let key = EcdsaKeyPair::generate(algorithm).expect("a key");
            let public = spki(key.public_key().as_der().expect("encodable").as_ref());
            (to_pem("PRIVATE KEY", key.to_pkcs8v1().expect("encodable").as_ref()), public)
        }
        Kind::Ed25519 => {
            let key = Ed25519KeyPair::generate().expect("a key");
            let public = spki(key.public_key().as_der().expect("encodable").as_ref());
            (to_pem("PRIVATE KEY", key.to_pkcs8v1().expect("encodable").as_ref()), public)
        }
    }
}

const METHODS: [&str; 13] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

#[test]
fn what_one_half_signs_the_other_knows() {
    for method in METHODS {
        let (private, public) = keys(method);
        let signing = jwt(method, Some(private.clone()), public.clone());
        let token = signing.sign("eve", 7, at(100)).expect("it has a key");
        let eve = Some(("eve".to_owned(), 7));
        assert_eq!(signing.verify(&token, at(159)), eve, "{method}");
        assert_eq!(signing.verify(&token, at(160)), None, "{method}: it has ended");
        let mut other = token.clone().into_bytes();
        let last = other.len() - 10;
        other[last] = if other[last] == b'A' { b'B' } else { b'A' };
        assert_eq!(signing.verify(std::str::from_utf8(&other).expect("letters"), at(100)), None, "{method}");
        if let Some(public) = public {
            let verifying = jwt(method, None, Some(public));
            assert_eq!(verifying.verify(&token, at(100)), eve, "{method}");
            assert_eq!(verifying.sign("eve", 7, at(100)), Err(AuthError::VerifyOnly), "{method}");
        }
    }
}

/// Tokens and public keys of an etcd 3.6.16.
const OF_ETCD: [(&str, &str, &str); 3] = [
    (
        "ES512",
        "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBLCU/b3pQEd6BC+KzeXulOVqlP5LevqsnAVHj0HP2Wbt3ZitruqKVeRFbPnrbaUUUGYacwNjss9sMm4SL\
         ATMPnjgBYI2u+FhvgCPtH+6PjlrlKoYxFosPzdsm4zLNlP8/x/4W4H+CuaXCu/zSZa27K0Aw/vlQg9mN0NwEoRCtRxmcMbc=",
        "eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3OTU2NTcyOTksInJldmlzaW9uIjozLCJ1c2VybmFtZSI6InJvb3QifQ.ALt4k6k_x5G\
         YYlrIEacK7cfitFLBssKSSOtNGOSvBTNfVNGdGx0_4JQ8B4jYaM3uERZTnfwS3DSKOOirsX_U0PFcAFwCL4IPLmrPMF4zFbBsWlj4fs_axQ4Iyvlvur\
         Q3pkMGlgOlWWOpWX8eCST-7twW9_MBfh3GzuEwWfL4WH0eiBI0",
    ),
    (
        "EdDSA",
        "MCowBQYDK2VwAyEAwVC/GOx9guhOihUYoI0GYcCFbwHGtlj2DuSlat+6lVo=",
        "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3OTU2NTczMDEsInJldmlzaW9uIjozLCJ1c2VybmFtZSI6InJvb3QifQ.aLKRnJLtlrl\
         _8lo1hNkP_GAC_gwSILXkFoUOkZSx8SRQ-lJxL_2JBmlBgHDGtIPt9jnI3l5uCQwb4dtxTysxAQ",
    ),
    (
        "PS256",
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0hK+QP52x62ASimMzI6XuKkEcrzSS+Yogt7gSpVYAOEdVSLtIujMe7KpcXKJX/1H0jR8ohVS\
         XZ+F4Domy+sSDcrKhE36eU8VXf3F20Im3H8ZuWEgCmdnE/choMkhbpKfxd4btV4PHd9nJDAytiUUFVseYvoeSw5gCzWrRPA17pHhBo2dRPooH99QfMWA\
         4CE1d3yAGQRXoJaNboHOEFAKtdhEKO13xWMZg0NxRTP4kLwQBaMgx5AsEpgIlMj0JSBMlsMYRORgWvy+7pk5ff66M2bDVp4equBvDwT9RNCP81TqFg1x\
         Coce369qNohr88HYIv4Y3A1GtK/hcXod0zRKVwIDAQAB",
        "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3OTU2NTcyODksInJldmlzaW9uIjozLCJ1c2VybmFtZSI6InJvb3QifQ.NvfWBUwqVgj\
         OWOV8pTsLMlLTItix2-h2Q-ZD-Wsc23BW6YmiiA9dJsLQSOcYZdZzm27Bn_cetgXJLSVJLhOwUnx4zCJULFBVpw7Fr_McGWe3YV3DpZui0f7dvQQanLF\
         atWGVrSY4oh6F-Ic_Lfi0w3xl7r8XtZ5ff__QrfZvSlKHP3PbyvyzdqykgJyfoNNxEw-8KrshF2ko2Y6ajG1VpsaT-XEqaBA0aDUPYPAgHz4MHUT59lg\
         bI70AxTkmL3datlHelK874IbVyOzgaAcZQ3WII87mNFLV2sIdZgfWNvpZ1v6VSBuy1DWPL2FLEKRXdLKv1PZAolkg-DLD5YYS6g",
    ),
];

#[test]
fn tokens_of_etcd_are_taken() {
    for (method, public, token) in OF_ETCD {
        let public = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
        let verifying = jwt(method, None, Some(public.into_bytes()));
        assert_eq!(verifying.verify(token, at(1_795_657_288)), Some(("root".to_owned(), 3)), "{method}");
        assert_eq!(verifying.verify(token, at(1_795_657_301)), None, "{method}: it has ended");
    }
}

#[test]
fn only_our_own_method_and_key_count() {
    let (ours, public) = keys("RS256");
    let signing = jwt("RS256", Some(ours.clone()), None);
    let (theirs, _) = keys("RS256");
    let foreign = jwt("RS256", Some(theirs), None).sign("root", 1, at(0)).expect("it has a key");
    assert_eq!(signing.verify(&foreign, at(1)), None);
    let other = jwt("PS256", Some(ours), None).sign("root", 1, at(0)).expect("it has a key");
    assert_eq!(signing.verify(&other, at(1)), None, "the method is not the token's to choose");
    // The public key is no secret: nobody may use it as one.
    let forged = jwt("HS256", public, None).sign("root", 1, at(0)).expect("it has a key");
    assert_eq!(signing.verify(&forged, at(1)), None);
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = part(r#"{"username":"root","revision":1}"#);
    assert_eq!(signing.verify(&format!("{}.{claims}.", part(r#"{"alg":"none"}"#)), at(1)), None);
    for nonsense in ["", ".", "..", "a.b.c", "a.b.c.d"] {
        assert_eq!(signing.verify(nonsense, at(1)), None, "{nonsense:?}");
    }
}

#[test]
fn claims_are_read_as_etcd_reads_them() {
    let keyed = jwt("HS256", Some(b"secret".to_vec()), None);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let check = |claims: &str, expect: Option<u64>| {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(claims));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())));
        let read = keyed.verify(&token, at(1000)).map(|(_, revision)| revision);
        assert_eq!(read, expect, "{claims}");
    };
    check(r#"{"username":"u","revision":3}"#, Some(3));
    check(r#"{"username":"u","revision":3.5}"#, Some(3));
    check(r#"{"username":"u","revision":"3"}"#, None);
    check(r#"{"username":"u"}"#, None);
    check(r#"{"revision":3}"#, None);
    check(r#"{"username":"u","revision":3,"exp":1001}"#, Some(3));
    check(r#"{"username":"u","revision":3,"exp":1000.9}"#, None);
    check(r#"{"username":"u","revision":3,"exp":"1001"}"#, None);
    check(r#"{"username":"u","revision":3,"nbf":1000}"#, Some(3));
    check(r#"{"username":"u","revision":3,"nbf":1001}"#, None);
    check("nonsense", None);
}

#[test]
fn keys_come_in_the_forms_gos_library_reads() {
    let key = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
    let older: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().expect("encodable");
    let sec1 = jwt("ES384", Some(to_pem("EC PRIVATE KEY", older.as_ref())), None);
    let raw = key.public_key().as_ref().to_vec();
    assert_eq!(sec1.public, raw);
    let wrong = options("ES256", Some(to_pem("EC PRIVATE KEY", older.as_ref())), None);
    assert!(Jwt::new(&wrong).is_err(), "another curve");

    let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let bare = to_pem("RSA PUBLIC KEY", key.public_key().as_ref());
    assert_eq!(jwt("RS256", None, Some(bare)).public, key.public_key().as_ref());

    let of_rcgen = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    let certificate = params.self_signed(&of_rcgen).expect("a certificate").pem().into_bytes();
    jwt("ES256", Some(of_rcgen.serialize_pem().into_bytes()), Some(certificate));
    for bad in [b"nonsense".to_vec(), to_pem("PRIVATE KEY", b"nonsense")] {
        assert!(Jwt::new(&options("RS256", Some(bad.clone()), None)).is_err());
        assert!(Jwt::new(&options("EdDSA", Some(bad), None)).is_err());
    }
}
