//! An informer and a sidecar within one program, and an async function as a kind of task: a + b.
//!
//! ```sh
//! cargo run -p examples --bin embedded -- 1 2
//! ```

use anyhow::{Context as _, ensure};
use proto::v1::informer_client::InformerClient;
use proto::v1::{self, executor::Mode, task_spec::Kind};
use sidecar::Sidecar;
use sidecar::executor::Function;

#[derive(serde::Serialize, serde::Deserialize)]
struct Sum {
    a: i64,
    b: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<i64>());
    let mut number = || numbers.next().context("usage: embedded A B")?.context("A and B are whole numbers");
    let input = serde_json::to_string(&Sum { a: number()?, b: number()? })?;

    // Everything lies below one directory, so a second run finds the tasks of the first.
    let data = std::env::temp_dir().join("informer-embedded-example");
    let options = informer::server::Options::new("127.0.0.1:0".parse()?, data.join("informer"));
    let server = informer::server::Server::start(options).await?;
    let url = format!("http://{}", server.addr());

    let add = Function::new("sum", |input: Sum| async move { Ok(input.a + input.b) });
    let sidecar = Sidecar::builder(&url, data.join("sidecar")).executor(add).start().await?;

    // Tasks of this type are run by code within sidecars. The sidecar's hello says so, too; this need not wait for it.
    let mut informer = InformerClient::new(tonic::transport::Endpoint::from_shared(url)?.connect().await?);
    let mode = Some(Mode::Embedded(v1::Embedded {}));
    let executor = Some(v1::Executor { r#type: "sum".into(), mode, ..Default::default() });
    informer.put_executor(v1::PutExecutorRequest { executor, replace: true }).await?;

    // A task names the type and carries its input; it is as durable as any other.
    let kind = Some(Kind::Typed(v1::Typed { r#type: "sum".into(), input }));
    let spec = Some(v1::TaskSpec { kind, ..Default::default() });
    let id = informer.submit(v1::SubmitRequest { spec, key: String::new() }).await?.into_inner().id;

    let mut changes = informer.watch(v1::WatchRequest { ids: vec![id.clone()] }).await?.into_inner();
    let mut last = v1::Task::default();
    while let Some(task) = changes.message().await? {
        last = task;
    }
    ensure!(last.state() == v1::TaskState::Succeeded, "task {id} ended as {}", last.state().as_str_name());

    // What the function returned is its stdout.
    let request = v1::LogsRequest { id, follow: true, ..Default::default() };
    let mut chunks = informer.logs(request).await?.into_inner();
    while let Some(chunk) = chunks.message().await? {
        print!("{}", String::from_utf8_lossy(&chunk.data));
        if chunk.end {
            break;
        }
    }
    sidecar.stop().await?;
    server.stop().await;
    Ok(())
}
