//! An async function as a kind of work.

use super::{Context, Execution, Executor, Fault, Status, async_trait, panicked};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::pin::Pin;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;

type Answer = Result<Vec<u8>, Fault>;
type Call = dyn Fn(Context) -> Result<Pin<Box<dyn Future<Output = Answer> + Send>>, Fault> + Send + Sync;
type Check = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// An async function as a kind of work: its argument is the task's input, read as JSON, and what it returns is written to the attempt's
/// stdout log, a text as it is and anything else as JSON.
///
/// A panic fails the attempt with exit code 101. A stop ends the function where it awaits next.
///
/// ```
/// use sidecar::executor::{Executor, Function};
///
/// #[derive(serde::Deserialize)]
/// struct Sum {
///     a: i64,
///     b: i64,
/// }
///
/// let sum = Function::new("sum", |input: Sum| async move { Ok(input.a + input.b) });
/// assert!(sum.validate(r#"{"a": 1, "b": 2}"#).is_ok());
/// assert!(sum.validate(r#"{"a": 1}"#).is_err());
/// ```
pub struct Function {
    kind: String,
    check: Box<Check>,
    call: Box<Call>,
    heeds_stop: bool,
}

impl Function {
    /// A function of the input alone.
    pub fn new<I, O, F, Fut>(kind: impl Into<String>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        F: Fn(I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Fault>> + Send + 'static,
    {
        Self { heeds_stop: false, ..Self::with_context(kind, move |input, _context| function(input)) }
    }

    /// A function of the input and the attempt's [`Context`]. When the attempt shall end, it has the task's stop grace to see that
    /// ([`Context::stopping`]) and to return.
    pub fn with_context<I, O, F, Fut>(kind: impl Into<String>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        F: Fn(I, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Fault>> + Send + 'static,
    {
        let call = move |context: Context| {
            let input = read::<I>(context.input()).map_err(Fault::Failed)?;
            let working = function(input, context);
            let answering = async move { write(&working.await?) };
            Ok(Box::pin(answering) as Pin<Box<dyn Future<Output = Answer> + Send>>)
        };
        let check = |input: &str| read::<I>(input).map(drop);
        Self { kind: kind.into(), check: Box::new(check), call: Box::new(call), heeds_stop: true }
    }
}

/// No input is JSON's `null`.
fn read<I: DeserializeOwned>(input: &str) -> Result<I, String> {
    let input = if input.trim().is_empty() { "null" } else { input };
    serde_json::from_str(input).map_err(|error| format!("the input is not what this type takes: {error}"))
}

fn write<O: Serialize>(output: &O) -> Answer {
    let mut text = match serde_json::to_value(output)? {
        serde_json::Value::Null => return Ok(Vec::new()),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text.into_bytes())
}

#[async_trait]
impl Executor for Function {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn validate(&self, input: &str) -> Result<(), String> {
        (self.check)(input)
    }

    async fn start(&self, context: Context) -> Result<Box<dyn Execution>, Fault> {
        let call = (self.call)(context.clone())?;
        let (tell, told) = oneshot::channel();
        let working = tokio::spawn(async move {
            // The first of the locals is the last to go: whoever looks at the nudge finds the answer, or that there will be none.
            let _nudge = NudgeAtEnd(context);
            let tell = tell;
            let answer = call.await;
            let _unheard = tell.send(answer);
        });
        Ok(Box::new(Working { working, told, heeds_stop: self.heeds_stop, output: Vec::new() }))
    }
}

struct NudgeAtEnd(Context);

impl Drop for NudgeAtEnd {
    fn drop(&mut self) {
        self.0.nudge();
    }
}

struct Working {
    working: JoinHandle<()>,
    told: oneshot::Receiver<Answer>,
    heeds_stop: bool,
    output: Vec<u8>,
}

/// What Rust's own main thread exits with after a panic.
const PANIC_CODE: i32 = 101;

#[async_trait]
impl Execution for Working {
    async fn status(&mut self) -> Result<Status, Fault> {
        match self.told.try_recv() {
            Ok(answer) => {
                self.output = answer?;
                Ok(Status::Succeeded)
            }
            Err(TryRecvError::Empty) => Ok(Status::Running),
            Err(TryRecvError::Closed) => {
                let message = (&mut self.working).await.err().map_or_else(String::new, panicked);
                Ok(Status::Failed { exit_code: PANIC_CODE, message })
            }
        }
    }

    async fn stop(&mut self) {
        if !self.heeds_stop {
            self.working.abort();
        }
        if !self.working.is_finished() {
            let _however = (&mut self.working).await;
        }
    }

    async fn output(&mut self) -> Result<Vec<u8>, Fault> {
        Ok(std::mem::take(&mut self.output))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.working.abort();
    }
}
