//! Every bound of the wire. Each says what it protects and what would break if it were doubled.

/// Largest gRPC message, both ways. A batch of assignments with full payloads still fits; doubling it doubles what one
/// connection can make the other side hold.
pub const MESSAGE_BYTES: usize = 4 << 20;

/// Largest encoded `TaskSpec`. Scripts and environments are far below; larger inputs belong into files. Sixteen of the largest
/// fit one message.
pub const PAYLOAD_BYTES: usize = 256 << 10;

/// Longest name, owner, label key, label value, cwd component list and idempotency key, in bytes. They are indexed and shown in
/// tables; doubling them doubles the indexes.
pub const NAME_BYTES: usize = 255;
/// Longest path or single argument that is not a script body. `PATH_MAX` of Linux.
pub const PATH_BYTES: usize = 4096;
/// Most labels, and most required labels, of a task or a sidecar. Each is an index row.
pub const LABELS: usize = 32;
/// Most environment variables of a task. With names and values they must fit the payload anyhow.
pub const ENV_VARS: usize = 1024;
/// Most arguments of a command; the kernel's own limit on their bytes is far above the payload bound.
pub const ARGS: usize = 4096;
/// Priorities lie in −1000…1000: enough bands for people, few enough that each may have a queue.
pub const PRIORITY: i32 = 1000;
/// Most attempts of a task (`--tries`), and most infrastructure retries. Beyond it a task is a service.
pub const ATTEMPTS: u32 = 1000;
/// Most exit codes in a list; a code has 256 values.
pub const CODES: usize = 256;
/// Longest duration anywhere: 365 days in milliseconds. Keeps sums of durations far from overflow.
pub const DURATION_MS: u64 = 365 * 24 * 3600 * 1000;
/// Most millicpu a task may ask for or a sidecar may have: 10,000 cores.
pub const CPU_MILLIS: u64 = 10_000_000;
/// Most memory a task may ask for or a sidecar may have: 1 PiB.
pub const MEMORY_BYTES: u64 = 1 << 50;
/// Least memory that a task may be limited to: 1 MiB, with which a shell just starts. Far below it nothing that is started lives long
/// enough to say why it failed; twice as much would refuse small static programs that do well.
pub const MEMORY_LIMIT_LEAST_BYTES: u64 = 1 << 20;

/// Most declared inputs, and most declared outputs, of a task. Each is fetched, hashed or renamed for itself; more belong into an
/// archive.
pub const FILES: usize = 256;
/// Most mounts of a container.
pub const MOUNTS: usize = 64;
/// Members of one array. A million is in use elsewhere; ten of them still have an index in eight digits, and their items, if each
/// has one, are kept in chunks, not in memory.
pub const ARRAY_MEMBERS: u32 = 10_000_000;
/// Longest item of an array's member: it goes into the environment, where the kernel allows 128 KiB a variable.
pub const ITEM_BYTES: usize = 16 << 10;
/// Bytes of one stored chunk of items: a member's start reads one, so it is small; a million short lines are some hundred chunks.
pub const ITEM_CHUNK_BYTES: usize = 64 << 10;
/// Bytes of all items of one array.
pub const ITEMS_BYTES: u64 = 1 << 30;
/// Runs of members of one array that have no row of their own. Each member singled out from the middle makes one more, and a run
/// is 8 bytes of a row that is rewritten as members start.
pub const ARRAY_RUNS: usize = 10_000;
/// Executors registered at once: every sidecar is told all of them.
pub const EXECUTORS: usize = 1_000;
/// Bytes of one log part on its way up.
pub const LOG_PART_BYTES: usize = 256 << 10;

/// Attempts that stay listed with a task; older ones are counted in `attempts_dropped` and stay in the history.
pub const ATTEMPTS_LISTED: usize = 32;
/// Events kept of one task's history; a service that restarts for a year must not fill the disk.
pub const HISTORY_EVENTS: u64 = 1000;
/// Tasks in one page of a list, at most; a page of full tasks must fit `MESSAGE_BYTES`.
pub const PAGE: u32 = 1000;
/// Page size when none is asked for.
pub const PAGE_DEFAULT: u32 = 100;
/// Requests in one submit batch. The answer lists each of them and must fit `MESSAGE_BYTES`.
pub const BATCH: usize = 50_000;
/// Task ids in one watch.
pub const WATCH_IDS: usize = 1000;
/// Tasks in all watches at once, each counted in each watch. A watch keeps the row that it told last of each of its tasks, a kilobyte or
/// two, so that those who do not read hold some 400 MB at most.
pub const WATCHED_TASKS: usize = 250_000;
/// Lines of a `why` answer.
pub const WHY_DETAILS: usize = 32;

/// Largest chunk of log bytes in one message: large enough that framing is under one per cent, small enough that streams share a
/// connection fairly.
pub const LOG_CHUNK_BYTES: usize = 64 << 10;
/// Cap of one log stream unless the task says otherwise: 64 MiB.
pub const LOG_CAP_DEFAULT_BYTES: u64 = 64 << 20;
/// Largest cap a task may ask for: 16 GiB.
pub const LOG_CAP_BYTES: u64 = 16 << 30;
/// Log readers at once, over all tasks; each holds a chunk or two in memory.
pub const LOG_READERS: usize = 256;

/// Events waiting for the informer's loop. At 100,000 events a second it is 40 ms of work: longer would only hide overload.
pub const INBOX: usize = 4096;
/// Messages waiting for one sidecar's stream. One that reads this slowly is cut off and reconnects with an inventory.
pub const LINK_QUEUE: usize = 1024;
/// Reports a sidecar keeps unacknowledged on the wire before it waits for an `Ack`; the rest waits in its ledger.
pub const REPORTS_IN_FLIGHT: usize = 1024;
/// Attempts that one sidecar may hold, running or unacknowledged; its inventory must fit a few messages.
pub const HELD_ATTEMPTS: usize = 10_000;
/// Attempts in one `Inventory` message.
pub const INVENTORY_PART: usize = 1000;
/// Bytes of results in one inventory, in all; an end whose result has no room is told by its report, after the verdict. The informer holds
/// an inventory as a whole before it answers.
pub const INVENTORY_RESULT_BYTES: usize = 4 << 20;
/// Progress entries in one beat; the others follow with the next.
pub const BEAT_PROGRESS: usize = 256;
/// Set-aside attempts that a sidecar is shown with; the others are counted only. A screen's worth: with more, a person looks at the machine
/// itself.
pub const ASIDE_NAMED: usize = 16;
/// Slots of one sidecar.
pub const SLOTS: u32 = 4096;
/// Streams on one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION: u32 = 2048;
/// Tasks that are not terminal, over all. At 1 kB each it is 2 GB of the machine's memory.
pub const TASKS_LIVE: usize = 2_000_000;
/// Epochs that a sidecar may have seen: SQLite's integers end at twice as much, and whoever leads after it must find a greater one.
pub const EPOCH: u64 = 1 << 62;
/// Sidecars known at once.
pub const SIDECARS: usize = 20_000;

/// Beat interval unless configured, ms.
pub const BEAT_MS: u64 = 5_000;
/// Shortest and longest beat interval that may be configured, ms. Below, the beats are the load; above, a lease lasts minutes.
pub const BEAT_RANGE_MS: std::ops::RangeInclusive<u64> = 50..=60_000;
/// Beats in a lease: after three missed ones a sidecar is lost.
pub const BEATS_PER_LEASE: u64 = 3;
/// Upper bound of the kill after a lease's end, ms: a `stop` attempt is gone at deadline + min(stop grace, this).
pub const FENCE_GRACE_MS: u64 = 5_000;
/// Stop grace of a task unless it says otherwise, ms.
pub const STOP_GRACE_MS: u64 = 10_000;
/// Attempts of a task unless it says otherwise.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 3;
/// Infrastructure retries of a task unless it says otherwise.
pub const MAX_INFRASTRUCTURE_DEFAULT: u32 = 3;
/// First retry delay unless the task says otherwise, ms.
pub const BACKOFF_MS: u64 = 2_000;
/// Longest retry delay unless the task says otherwise, ms.
pub const BACKOFF_CAP_MS: u64 = 300_000;
/// Request of a task that names none, in thousandths of a core.
pub const CPU_DEFAULT_MILLIS: u64 = 1_000;
/// First restart delay of a service unless it says otherwise, ms.
pub const RESTART_BACKOFF_MS: u64 = 500;
/// Longest restart delay of a service unless it says otherwise, ms.
pub const RESTART_BACKOFF_CAP_MS: u64 = 60_000;
/// A service that ran this long counts as healthy again: its restart back-off starts anew. Milliseconds.
pub const RESTART_RESET_MS: u64 = 60_000;

/// Largest result that a process leaves for its workflow. It travels in its attempt's end and is read by expressions; four of the largest
/// and their envelope fit a message several times over.
pub const RESULT_BYTES: usize = 256 << 10;
/// Largest child of a running task: its name and input as JSON. Ten thousand of them are what one task may mean to emit.
pub const EMIT_BYTES: usize = 64 << 10;
/// Emits of one sidecar that its informer has not answered; one more is told to come later. Twice as many would only wait longer.
pub const EMITS_HELD: usize = 1024;
/// Bytes of such emits, in all: they lie in the sidecar's memory, which every worker pays.
pub const EMITS_HELD_BYTES: usize = 16 << 20;
/// Emits on the wire before the first of them is answered: enough for the informer to commit them in batches.
pub const EMITS_IN_FLIGHT: usize = 256;
/// Children of one task that is of no workflow, as many as of one that is.
pub const CHILDREN: u32 = 50_000;
/// Label that such a child carries: its parent's id. By it they are listed, counted and cancelled.
pub const PARENT_LABEL: &str = "informer.parent";
/// Largest workflow or task definition, bytes of JSON. The largest public ones have a hundred kilobytes; each start reads one.
pub const DEFINITION_BYTES: usize = 1 << 20;
/// Versions of workflow definitions, over all names. The machine keeps a hash of each; ten times as many would still be a few megabytes,
/// and nobody could read their list.
pub const DEFINITIONS: usize = 20_000;
/// Registered task definitions.
pub const TASK_DEFINITIONS: usize = 20_000;
/// Largest input of a run, of a signal or of a rerun, bytes of JSON. It travels in one message.
pub const RUN_INPUT_BYTES: usize = 1 << 20;
/// Runs that are not over. Each holds its steps in memory, some kilobytes of a usual run.
pub const RUNS_LIVE: usize = 100_000;
/// Longest id of a run: a child's is its parent's with one number more, so this ends a workflow that starts itself without end, some sixty
/// levels down.
pub const RUN_ID_BYTES: usize = NAME_BYTES;
/// Runs that one operation may bring back: the run, those around it, and its children that failed. All of them move in one batch.
pub const RUN_FAMILY: usize = 10_000;
/// Lines kept of one run's history.
pub const RUN_EVENTS: u32 = 10_000;
/// Bytes of inputs and outputs in one page of a run's tasks; what is beyond it is left out and marked, so that a page fits a message.
pub const RUN_PAGE_BYTES: usize = MESSAGE_BYTES / 2;
/// Workers that wait for a task by name, over all names. Each is a caller of its own.
pub const POLLERS: usize = 10_000;
/// Tasks that one poll may take.
pub const POLL_TASKS: u32 = 100;
/// Longest that a poll waits, ms: below the idle times of usual proxies.
pub const POLL_WAIT_MS: u64 = 30_000;
