use super::Exit;
use super::call::{Failure, ask};
use super::request::Asked;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that gives these answers, one a connection, and then what it was asked.
async fn server(answers: &'static [&'static str]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0, "the request broke off");
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked.push(String::from_utf8(request).unwrap());
        }
        asked
    });
    (url, serving)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

async fn call(request: Value) -> Result<Value, Failure> {
    ask(Asked::read(json!({ "http_request": request }).to_string().as_bytes()).unwrap()).await
}

#[tokio::test]
async fn an_answer_becomes_the_result() {
    const ANSWER: &str =
        "HTTP/1.1 201 Created\r\nx-page-count: 2\r\nconnection: close\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
    let (url, serving) = server(&[ANSWER]).await;
    let headers = json!({"X-Token": "t", "X-Count": 3, "Content-Length": "99"});
    let request = json!({"uri": format!("{url}/x?y=1"), "method": "post", "headers": headers, "body": {"b": 2}});
    let response = call(request).await.unwrap();
    assert_eq!(response["statusCode"], 201);
    assert_eq!(response["reasonPhrase"], "Created");
    assert_eq!(response["body"], json!({"a": 1}));
    assert_eq!(response["headers"]["X-Page-Count"], json!(["2"]));
    let asked = &serving.await.unwrap()[0];
    assert!(asked.starts_with("POST /x?y=1 HTTP/1.1\r\n"), "{asked}");
    for line in ["accept: application/json", "content-type: application/json", "x-token: t", "x-count: 3"] {
        assert!(asked.contains(&format!("{line}\r\n")), "{line} is not in {asked}");
    }
    assert!(asked.contains("content-length: 7\r\n") && asked.ends_with("\r\n\r\n{\"b\":2}"), "{asked}");
}

#[tokio::test]
async fn an_error_is_a_failure_with_its_answer_unless_it_is_expected() {
    const GONE: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnone";
    let (url, serving) = server(&[GONE, GONE]).await;
    let failure = call(json!({ "uri": url })).await.unwrap_err();
    assert_eq!((failure.exit, &failure.response["body"]), (Exit::Status, &json!("none")));
    assert!(failure.message.ends_with("answered 404 Not Found"), "{}", failure.message);
    let expected = call(json!({ "uri": url, "expectStatus": [200, 404] })).await.unwrap();
    assert_eq!(expected["statusCode"], 404);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_secrets_of_another_host() {
    let (there, serving) = server(&["HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let redirecting = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                stream.read_buf(&mut request).await.unwrap();
            }
            let answer =
                format!("HTTP/1.1 302 Found\r\nlocation: {there}/y\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let request = json!({"uri": here, "headers": {"Authorization": "secret", "X-Mine": "1"}});
    let response = call(request).await.unwrap();
    assert_eq!((&response["statusCode"], &response["body"]), (&json!(204), &Value::Null));
    let asked = &serving.await.unwrap()[0];
    assert!(asked.starts_with("GET /y ") && asked.contains("x-mine: 1") && !asked.contains("secret"), "{asked}");
    // What changes something is not sent to an address that nobody named.
    let response = call(json!({"uri": here, "method": "POST"})).await.unwrap();
    assert_eq!(response["statusCode"], 302);
    redirecting.await.unwrap();
}

#[tokio::test]
async fn no_answer_and_a_broken_one_are_told_apart() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = call(json!({ "uri": format!("http://{gone}/") })).await.unwrap_err();
    assert_eq!(failure.exit, Exit::NoAnswer);
    assert!(failure.message.contains("refused"), "{}", failure.message);
    let (url, _serving) = server(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]).await;
    assert_eq!(call(json!({ "uri": url })).await.unwrap_err().exit, Exit::Answer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/", listener.local_addr().unwrap());
    let failure = call(json!({ "uri": silent, "readTimeOut": 20, "connectionTimeOut": 20 })).await.unwrap_err();
    assert_eq!(failure.exit, Exit::NoAnswer);
}

#[tokio::test]
async fn an_answer_that_fits_no_result_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !is_whole(&request) {
            stream.read_buf(&mut request).await.unwrap();
        }
        // As text it fits, and as a part of a JSON text, where each quote takes two bytes, it does not.
        let body = "\"".repeat(proto::bounds::RESULT_BYTES - 100);
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    });
    let failure = call(json!({ "uri": url })).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Answer);
    assert!(failure.message.contains("larger than a result"), "{}", failure.message);
    serving.await.unwrap();
}

#[test]
fn what_is_no_request_says_why() {
    let wrong = [
        (json!([]), "no JSON object"),
        (json!({}), "uri is missing"),
        (json!({"http_request": {"uri": "ftp://x/"}}), "is not http(s)://"),
        (json!({"http_request": {"uri": "http://x/ y"}}), "is not http(s)://"),
        (json!({"uri": "http://x/", "method": "GE T"}), "is none of HTTP"),
        (json!({"uri": "http://x/", "headers": {"a b": "1"}}), "headers.a b"),
        (json!({"uri": "http://x/", "headers": {"a": "1\r\nb: 2"}}), "headers.a"),
        (json!({"uri": "http://x/", "headers": {"a": [1]}}), "headers.a"),
        (json!({"uri": 3}), "invalid type"),
    ];
    for (input, why) in wrong {
        let error = Asked::read(input.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{input}: {error}");
    }
}
