//! How much of a request's headers is read.

use cloud::Auth;

use crate::support::start;

/// Up to 1 MiB, as Go's servers read, however many there are.
#[tokio::test]
async fn long_and_many_headers_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let many: String = (0..1000).map(|i| format!("X-{i}: a\r\n")).collect();
    for headers in [format!("X-Big: {}\r\n", "a".repeat(900_000)), many] {
        let headers = format!("Authorization: Bearer {}\r\n{headers}", run.token);
        let (code, text) = run.raw("GET", "/v1/projects/demo-project/locations/-/clusters", &headers, "").await;
        assert_eq!(code, 200, "{text}");
    }
}
