//! How a task is run and retried: `TaskDef` of Conductor, with its defaults.

use serde_json::{Map, Value};

use super::bounds::{MAX_RETRIES, MAX_SECONDS};
use super::reader::Reader;

/// A task definition.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskDef {
    /// Its name.
    pub name: String,
    /// Tries after the first.
    pub retry_count: u32,
    /// How the delay before a retry grows.
    pub retry_logic: RetryLogic,
    /// The delay it grows from.
    pub retry_delay_s: u64,
    /// No delay grows beyond this; 0: no bound of its own.
    pub max_retry_delay_s: u64,
    /// Up to this is added to every delay, at random.
    pub backoff_jitter_ms: u64,
    /// Factor of LINEAR_BACKOFF.
    pub backoff_scale: u64,
    /// Seconds one try may take; 0: no limit.
    pub timeout_s: u64,
    /// What happens then.
    pub timeout_policy: TimeoutPolicy,
    /// Seconds a worker may be silent; 0: no limit.
    pub response_timeout_s: u64,
    /// Seconds until a worker must have taken it; 0: no limit.
    pub poll_timeout_s: u64,
    /// Seconds that all its tries may take together; 0: no limit.
    pub total_timeout_s: u64,
    /// How many may run at once, over all runs; 0: no limit.
    pub concurrent_exec_limit: u32,
    /// How many may start in each period; 0: no limit.
    pub rate_limit: u32,
    /// That period.
    pub rate_period_s: u64,
    /// Values for input keys that are absent or null.
    pub input_template: Map<String, Value>,
    /// How a sidecar runs it: an optional key of our own, kept as it is. Without it, workers poll for the task.
    pub task: Option<Map<String, Value>>,
}

/// How the delay before a retry grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryLogic {
    /// It does not.
    Fixed,
    /// By the delay times the scale each time.
    Linear,
    /// Twofold each time.
    Exponential,
}

/// What happens when a try has taken too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutPolicy {
    /// It is tried again.
    Retry,
    /// The run times out.
    TimeOutWorkflow,
    /// Nothing.
    AlertOnly,
}

/// Conductor's default of `responseTimeoutSeconds`.
const RESPONSE_TIMEOUT_S: u64 = 3600;
/// Conductor's default of `retryDelaySeconds`.
const RETRY_DELAY_S: u64 = 60;
/// Conductor's default of `retryCount`.
const RETRY_COUNT: u32 = 3;

const KEYS: &[&str] = &[
    "name",
    "description",
    "retryCount",
    "timeoutSeconds",
    "inputKeys",
    "outputKeys",
    "timeoutPolicy",
    "retryLogic",
    "retryDelaySeconds",
    "responseTimeoutSeconds",
    "concurrentExecLimit",
    "inputTemplate",
    "rateLimitPerFrequency",
    "rateLimitFrequencyInSeconds",
    "isolationGroupId",
    "executionNameSpace",
    "ownerEmail",
    "pollTimeoutSeconds",
    "backoffScaleFactor",
    "baseType",
    "totalTimeoutSeconds",
    "maxRetryDelaySeconds",
    "backoffJitterMs",
    "inputSchema",
    "outputSchema",
    "enforceSchema",
    "ownerApp",
    "createTime",
    "updateTime",
    "createdBy",
    "updatedBy",
    "task",
];

impl TaskDef {
    /// What Conductor assumes of a task that nobody defined.
    pub fn unregistered(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            retry_count: RETRY_COUNT,
            retry_logic: RetryLogic::Fixed,
            retry_delay_s: RETRY_DELAY_S,
            max_retry_delay_s: 0,
            backoff_jitter_ms: 0,
            backoff_scale: 1,
            timeout_s: 0,
            timeout_policy: TimeoutPolicy::TimeOutWorkflow,
            response_timeout_s: RESPONSE_TIMEOUT_S,
            poll_timeout_s: 0,
            total_timeout_s: 0,
            concurrent_exec_limit: 0,
            rate_limit: 0,
            rate_period_s: 1,
            input_template: Map::new(),
            task: None,
        }
    }

    /// Milliseconds until retry number `retry` (from 1) may start. `jitter` is any random number.
    pub fn retry_delay_ms(&self, retry: u32, jitter: u64) -> u64 {
        let grown = match self.retry_logic {
            RetryLogic::Fixed => self.retry_delay_s,
            RetryLogic::Linear => {
                self.retry_delay_s.saturating_mul(self.backoff_scale).saturating_mul(u64::from(retry.max(1)))
            }
            RetryLogic::Exponential => {
                let doubled = 1u64.checked_shl(retry.saturating_sub(1)).unwrap_or(u64::MAX);
                self.retry_delay_s.saturating_mul(doubled)
            }
        };
        let cap = if self.max_retry_delay_s > 0 { self.max_retry_delay_s } else { MAX_SECONDS };
        let spread = if self.backoff_jitter_ms > 0 { jitter % (self.backoff_jitter_ms + 1) } else { 0 };
        grown.min(cap) * 1000 + spread
    }
}

/// Reads a task definition at `path`.
pub(super) fn parse(reader: &mut Reader, json: &Value, path: &str) -> Option<TaskDef> {
    let from = reader.object(json, path)?;
    reader.known(from, path, KEYS);
    reader.without_effect(from, path, &["isolationGroupId", "executionNameSpace", "inputSchema", "outputSchema"]);
    let name = reader.name(from, path, "name")?;
    let default = TaskDef::unregistered(&name);
    let mut seconds = |key: &str| reader.number(from, path, key, MAX_SECONDS);
    let retry_delay_s = seconds("retryDelaySeconds").unwrap_or(default.retry_delay_s);
    let max_retry_delay_s = seconds("maxRetryDelaySeconds").unwrap_or(0);
    let timeout_s = seconds("timeoutSeconds").unwrap_or(0);
    let response_timeout_s = seconds("responseTimeoutSeconds").unwrap_or(default.response_timeout_s);
    let poll_timeout_s = seconds("pollTimeoutSeconds").unwrap_or(0);
    let total_timeout_s = seconds("totalTimeoutSeconds").unwrap_or(0);
    let rate_period_s = seconds("rateLimitFrequencyInSeconds").filter(|s| *s > 0).unwrap_or(default.rate_period_s);
    let definition = TaskDef {
        retry_count: small(reader.number(from, path, "retryCount", u64::from(MAX_RETRIES))).unwrap_or(RETRY_COUNT),
        retry_logic: retry_logic(reader, from, path),
        retry_delay_s,
        max_retry_delay_s,
        backoff_jitter_ms: reader.number(from, path, "backoffJitterMs", MAX_SECONDS * 1000).unwrap_or(0),
        backoff_scale: reader.number(from, path, "backoffScaleFactor", 1_000_000).unwrap_or(1).max(1),
        timeout_s,
        timeout_policy: timeout_policy(reader, from, path),
        response_timeout_s,
        poll_timeout_s,
        total_timeout_s,
        concurrent_exec_limit: small(reader.number(from, path, "concurrentExecLimit", u64::from(u32::MAX)))
            .unwrap_or(0),
        rate_limit: small(reader.number(from, path, "rateLimitPerFrequency", u64::from(u32::MAX))).unwrap_or(0),
        rate_period_s,
        input_template: reader.map(from, path, "inputTemplate"),
        task: reader.task(from, path, "task"),
        name,
    };
    Some(definition)
}

fn small(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn retry_logic(reader: &mut Reader, from: &Map<String, Value>, path: &str) -> RetryLogic {
    match reader.text(from, path, "retryLogic").as_deref() {
        None | Some("FIXED") => RetryLogic::Fixed,
        Some("LINEAR_BACKOFF") => RetryLogic::Linear,
        Some("EXPONENTIAL_BACKOFF") => RetryLogic::Exponential,
        Some(other) => {
            let message = format!("{other:?} is not known; use FIXED, LINEAR_BACKOFF or EXPONENTIAL_BACKOFF");
            reader.fault(format!("{path}.retryLogic"), message);
            RetryLogic::Fixed
        }
    }
}

fn timeout_policy(reader: &mut Reader, from: &Map<String, Value>, path: &str) -> TimeoutPolicy {
    match reader.text(from, path, "timeoutPolicy").as_deref() {
        None | Some("TIME_OUT_WF") => TimeoutPolicy::TimeOutWorkflow,
        Some("RETRY") => TimeoutPolicy::Retry,
        Some("ALERT_ONLY") => TimeoutPolicy::AlertOnly,
        Some(other) => {
            let message = format!("{other:?} is not known; use TIME_OUT_WF, RETRY or ALERT_ONLY");
            reader.fault(format!("{path}.timeoutPolicy"), message);
            TimeoutPolicy::TimeOutWorkflow
        }
    }
}
