//! Both daemons within one program: a user's own executors, started, looked after and ended like any other attempt.

use anyhow::{Context as _, Result, bail, ensure};
use proto::v1::informer_client::InformerClient;
use proto::v1::{self, LogStream, TaskState, task_spec::Kind};
use sidecar::executor::{Context, Execution, Executor, Fault, Function, Progress, Status, async_trait};
use sidecar::{Builder, Running, Sidecar};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use tests::world::DEADLINE;
use tonic::transport::Channel;

/// An informer, and a directory for everything.
struct Home {
    dir: PathBuf,
    server: informer::server::Server,
    client: InformerClient<Channel>,
}

impl Home {
    async fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("embedding-test-{}-{n:04}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let mut options = informer::server::Options::new("127.0.0.1:0".parse()?, dir.join("informer"));
        options.beat_ms = 500;
        let server = informer::server::Server::start(options).await?;
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.addr()))?.connect().await?;
        let client = InformerClient::new(channel);
        Ok(Self { dir, server, client })
    }

    fn sidecar(&self, name: &str) -> Builder {
        Sidecar::builder(format!("http://{}", self.server.addr()), self.dir.join(name)).slots(4)
    }

    /// Says that tasks of this type are run within sidecars: a sidecar's hello says so, too, but a test should not wait for it.
    async fn register(&mut self, kind: &str) -> Result<()> {
        let mode = Some(v1::executor::Mode::Embedded(v1::Embedded {}));
        let executor = Some(v1::Executor { r#type: kind.to_owned(), mode, ..Default::default() });
        self.client.put_executor(v1::PutExecutorRequest { executor, replace: true }).await?;
        Ok(())
    }

    async fn submit(&mut self, kind: &str, input: &str, change: impl FnOnce(&mut v1::TaskSpec)) -> Result<String> {
        let typed = v1::Typed { r#type: kind.to_owned(), input: input.to_owned() };
        let retry = Some(v1::Retry { max_attempts: 1, ..Default::default() });
        let mut spec = v1::TaskSpec { kind: Some(Kind::Typed(typed)), retry, ..Default::default() };
        change(&mut spec);
        let request = v1::SubmitRequest { spec: Some(spec), key: String::new() };
        Ok(self.client.submit(request).await?.into_inner().id)
    }

    /// The task as soon as it fits.
    async fn wait(&mut self, id: &str, fits: impl Fn(&v1::Task) -> bool) -> Result<v1::Task> {
        let mut last = None;
        let waited = async {
            // A watch ends with the task; it tells each change, progress among them.
            let mut watch = self.client.watch(v1::WatchRequest { ids: vec![id.to_owned()] }).await?.into_inner();
            while let Some(task) = watch.message().await? {
                if fits(&task) {
                    return anyhow::Ok(task);
                }
                last = Some(task);
            }
            bail!("task {id} has ended otherwise: {last:?}");
        };
        match tokio::time::timeout(DEADLINE, waited).await {
            Ok(task) => task,
            Err(_) => bail!("waited in vain, last seen: {last:?}"),
        }
    }

    async fn ended(&mut self, id: &str) -> Result<v1::Task> {
        let is_terminal = |state| matches!(state, TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled);
        self.wait(id, |task| is_terminal(task.state())).await
    }

    async fn log(&mut self, id: &str, stream: LogStream) -> Result<String> {
        let request = v1::LogsRequest { id: id.to_owned(), follow: true, ..Default::default() };
        let mut chunks = self.client.logs(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            if chunk.stream() == stream {
                bytes.extend_from_slice(&chunk.data);
            }
            if chunk.end {
                break;
            }
        }
        Ok(String::from_utf8(bytes)?)
    }

    async fn close(self, sidecars: Vec<Running>) -> Result<()> {
        for sidecar in sidecars {
            sidecar.stop().await?;
        }
        self.server.stop().await;
        std::fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

fn ending(task: &v1::Task) -> Result<&v1::Ending> {
    task.attempts.last().and_then(|attempt| attempt.ending.as_ref()).context("an ended attempt")
}

#[derive(serde::Deserialize)]
struct Sum {
    a: i64,
    b: i64,
}

fn sum() -> Function {
    Function::new("sum", |input: Sum| async move { Ok(input.a + input.b) })
}

#[tokio::test]
async fn a_plus_b() -> Result<()> {
    let mut home = Home::new().await?;
    let sidecar = home.sidecar("adder").executor(sum()).start().await?;
    home.register("sum").await?;
    let id = home.submit("sum", r#"{"a": 1, "b": 2}"#, |_| {}).await?;
    let task = home.ended(&id).await?;
    assert_eq!(task.state(), TaskState::Succeeded, "{task:?}");
    assert_eq!(task.attempts[0].sidecar, sidecar.id());
    assert!(task.attempts[0].started_unix_ms > 0);
    assert_eq!(home.log(&id, LogStream::Out).await?, "3\n");
    home.close(vec![sidecar]).await
}

#[tokio::test]
async fn what_goes_wrong_fails_its_attempt_alone() -> Result<()> {
    let mut home = Home::new().await?;
    let fault = Function::new("fault", |why: String| async move {
        match why.as_str() {
            "panic" => panic!("of its own accord"),
            "io" => Ok(std::fs::read_to_string("/nowhere/at/all")?),
            why => Err(Fault::failed(why)),
        }
    });
    let sidecar = home.sidecar("faulty").executor(fault).executor(sum()).start().await?;
    for kind in ["fault", "sum"] {
        home.register(kind).await?;
    }
    let cases = [
        ("fault", r#""panic""#, 101, "it panicked: of its own accord"),
        ("fault", r#""no luck""#, 1, "no luck"),
        ("fault", r#""io""#, 1, "No such file"),
        ("sum", r#"{"a": 1}"#, 2, "missing field `b`"),
    ];
    for (kind, input, code, words) in cases {
        let id = home.submit(kind, input, |_| {}).await?;
        let task = home.ended(&id).await?;
        assert_eq!(task.state(), TaskState::Failed, "{task:?}");
        let ending = ending(&task)?;
        assert_eq!((ending.exit_code, ending.reason()), (Some(code), v1::Reason::ExitCode), "{ending:?}");
        ensure!(ending.message.contains(words), "{ending:?}");
        ensure!(home.log(&id, LogStream::Err).await?.contains(words));
    }
    let id = home.submit("sum", r#"{"a": 20, "b": 22}"#, |_| {}).await?;
    assert_eq!(home.ended(&id).await?.state(), TaskState::Succeeded, "the sidecar lives on");
    home.close(vec![sidecar]).await
}

/// Runs until it is told to end, and tells how far it is.
struct Patient;

struct Waiting(Context);

#[async_trait]
impl Executor for Patient {
    fn kind(&self) -> &str {
        "patient"
    }

    async fn start(&self, context: Context) -> Result<Box<dyn Execution>, Fault> {
        context.out("waiting\n");
        Ok(Box::new(Waiting(context)))
    }
}

#[async_trait]
impl Execution for Waiting {
    async fn status(&mut self) -> Result<Status, Fault> {
        Ok(Status::Running)
    }

    fn progress(&self) -> Option<Progress> {
        Some(Progress { permille: 500, note: "half of nothing".to_owned() })
    }

    async fn stop(&mut self) {
        self.0.out("told to end\n");
    }
}

#[tokio::test]
async fn a_cancel_and_a_timeout_stop_it_and_progress_is_shown() -> Result<()> {
    let mut home = Home::new().await?;
    let sidecar = home.sidecar("patient").executor(Patient).start().await?;
    home.register("patient").await?;
    let id = home.submit("patient", "", |_| {}).await?;
    let halfway = |task: &v1::Task| task.progress.as_ref().is_some_and(|progress| progress.permille == 500);
    home.wait(&id, halfway).await?;
    home.client.cancel(v1::CancelRequest { id: id.clone(), ..Default::default() }).await?;
    assert_eq!(home.ended(&id).await?.state(), TaskState::Cancelled);
    assert_eq!(home.log(&id, LogStream::Out).await?, "waiting\ntold to end\n");

    let limit = |spec: &mut v1::TaskSpec| {
        spec.timeouts = Some(v1::Timeouts { attempt_ms: 200, ..Default::default() });
    };
    let id = home.submit("patient", "", limit).await?;
    let task = home.ended(&id).await?;
    assert_eq!(ending(&task)?.reason(), v1::Reason::Timeout, "{task:?}");
    home.close(vec![sidecar]).await
}

#[tokio::test]
async fn what_is_unavailable_or_ends_with_its_sidecar_is_run_elsewhere_and_charged_to_nobody() -> Result<()> {
    let mut home = Home::new().await?;
    let away = Function::new("where", |(): ()| async { Err::<String, _>(Fault::unavailable("not today")) });
    let first = home.sidecar("first").executor(away).executor(Patient).start().await?;
    home.register("where").await?;
    home.register("patient").await?;
    let id = home.submit("where", "", |_| {}).await?;
    let tried = |task: &v1::Task| task.attempts.iter().any(|attempt| attempt.ending.is_some());
    let task = home.wait(&id, tried).await?;
    let reason = task.attempts[0].ending.as_ref().map(v1::Ending::reason);
    assert!(matches!(reason, Some(v1::Reason::Lost)), "{task:?}");

    let patient = home.submit("patient", "", |_| {}).await?;
    home.wait(&patient, |task| task.state() == TaskState::Running).await?;
    let here = Function::new("where", |(): ()| async { Ok("here") });
    first.stop().await?;
    let second = home.sidecar("second").executor(here).executor(Patient).start().await?;
    let again = |task: &v1::Task| task.state() == TaskState::Running && task.attempts.len() == 2;
    let task = home.wait(&patient, again).await?;
    let reason = task.attempts[0].ending.as_ref().map(v1::Ending::reason);
    assert_eq!(reason, Some(v1::Reason::Drained), "{task:?}");
    home.client.cancel(v1::CancelRequest { id: patient.clone(), ..Default::default() }).await?;
    home.ended(&patient).await?;
    home.close(vec![second]).await
}

#[tokio::test]
async fn what_ran_within_a_sidecar_that_vanished_is_lost_and_run_again() -> Result<()> {
    let mut home = Home::new().await?;
    // Never awaits its end: the runtime that it is on is dropped under it.
    let first = home.sidecar("one").executor(Patient).start().await?;
    home.register("patient").await?;
    let id = home.submit("patient", "", |_| {}).await?;
    home.wait(&id, |task| task.state() == TaskState::Running).await?;
    let name = home.sidecar("one").executor(Patient).start().await;
    assert!(name.is_err(), "a data directory has one owner");
    drop(first);
    let second = home.sidecar("two").executor(Patient).start().await?;
    let again = |task: &v1::Task| task.state() == TaskState::Running && task.attempts.len() == 2;
    let task = home.wait(&id, again).await?;
    assert_eq!(task.attempts[1].sidecar, second.id());
    home.client.cancel(v1::CancelRequest { id: id.clone(), ..Default::default() }).await?;
    home.ended(&id).await?;
    home.close(vec![second]).await
}

#[tokio::test]
async fn at_the_end_of_the_lease_a_stop_attempt_is_told_to_end_and_another_runs_on() -> Result<()> {
    let mut home = Home::new().await?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watch = Function::with_context("watch", move |who: String, context: Context| {
        let tell = tell.clone();
        async move {
            context.stopping().await;
            tell.send(who).map_err(Fault::failed)
        }
    });
    let sidecar = home.sidecar("watcher").executor(watch).start().await?;
    home.register("watch").await?;
    let continues = home.submit("watch", r#""continue""#, |_| {}).await?;
    let stops = |spec: &mut v1::TaskSpec| spec.on_disconnect = v1::OnDisconnect::Stop.into();
    let stops = home.submit("watch", r#""stop""#, stops).await?;
    for id in [&continues, &stops] {
        home.wait(id, |task| task.state() == TaskState::Running).await?;
    }
    home.server.stop().await;
    let first = tokio::time::timeout(DEADLINE, told.recv()).await?;
    assert_eq!(first.as_deref(), Some("stop"));
    assert!(told.try_recv().is_err(), "what continues is not told to end");
    sidecar.stop().await?;
    assert_eq!(told.recv().await.as_deref(), Some("continue"), "until its sidecar ends");
    std::fs::remove_dir_all(&home.dir)?;
    Ok(())
}

#[tokio::test]
async fn executors_that_cannot_be_told_apart_are_refused() -> Result<()> {
    let home = Home::new().await?;
    let Err(error) = home.sidecar("twice").executor(sum()).executor(sum()).start().await else {
        bail!("two executors of one type were taken");
    };
    assert_eq!(error.to_string(), "there are two executors of type \"sum\"; keep one");
    home.close(Vec::new()).await
}
