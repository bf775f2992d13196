//! What the quickstart and the documentation run.
//!
//! | path | is |
//! |---|---|
//! | `src/bin/hello-http.rs` | a small HTTP server, the long-running service of the quickstart |
//! | `src/bin/submit.rs` | a gRPC client: submits a command, watches it, prints its log |
//! | `src/bin/embedded.rs` | informer and sidecar within one program, and an async function as a kind of task: a + b |
//! | `src/bin/remote-service.rs` | an HTTP service that runs tasks of its type, polled by a sidecar |
//! | `python/` | a client in Python: submit, wait, logs, an array |
//! | `tasks/` | task files for `informer submit -f`; `exclusive.json` is the JSON form, which has no comments |
//! | `config/`, `systemd/`, `pod/` | settings of both daemons with their reasons; units; a sidecar as a deployment of pods |
//! | `media/` | a real video to transcode, with its attribution |
