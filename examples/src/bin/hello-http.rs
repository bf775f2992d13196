//! `hello-http --port P`: a small HTTP server on 127.0.0.1, to be run as a long-running service.
//!
//! `/` greets, `/healthz` says that it is well, `/pid` tells its process id.

use std::{process::ExitCode, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Longest request head, in bytes; a browser's is below 2 KiB.
const HEAD_BYTES: u64 = 16 << 10;
/// How long one exchange may take. Connections are served one after the other, so that none can pile up.
const EXCHANGE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let port = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--port", port] => port.parse().ok(),
        _ => None,
    };
    let Some(port) = port else {
        eprintln!("usage: hello-http --port PORT (0 takes a free one)");
        return ExitCode::from(2);
    };
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot listen on 127.0.0.1:{port}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("hello-http {} listens on http://{}", std::process::id(), listener.local_addr()?);
    loop {
        let (connection, _) = listener.accept().await?;
        // A client that is slow, gone or wrong costs only its own connection.
        if let Ok(Ok(path)) = timeout(EXCHANGE, answer(connection)).await {
            println!("GET {path}");
        }
    }
}

/// Reads one request and answers it; gives its path.
async fn answer(connection: TcpStream) -> std::io::Result<String> {
    let mut reader = BufReader::new(connection.take(HEAD_BYTES));
    let mut request = String::new();
    reader.read_line(&mut request).await?;
    let mut header = String::new();
    while reader.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let path = match request.split_whitespace().collect::<Vec<_>>()[..] {
        ["GET", path, _version] => path.to_owned(),
        _ => String::new(),
    };
    let (status, body) = match path.as_str() {
        "/" => ("200 OK", format!("hello from process {}\n", std::process::id())),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/pid" => ("200 OK", format!("{}\n", std::process::id())),
        _ => ("404 Not Found", "there is only /, /healthz and /pid\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut connection = reader.into_inner().into_inner();
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    connection.shutdown().await?;
    Ok(path)
}
