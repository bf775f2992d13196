//! A response stream that owns the task which fills it. Dropping the stream (the client left, the connection broke) aborts the
//! task; a task that panics ends the stream with an error, not with what looks like a complete answer.

use super::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::Status;

/// Messages made by one task, then its result if that is an error.
pub(crate) struct Produced<T> {
    messages: mpsc::Receiver<T>,
    work: Work,
    ends_with_senders: bool,
}

enum Work {
    Running(JoinHandle<Result<(), Error>>),
    /// Finished; what it sent last may still be under way.
    Done(Option<Error>),
}

impl<T: Send + 'static> Produced<T> {
    /// Starts `task`, whose sender feeds `messages`. The stream ends when the task does.
    pub(crate) fn new<F>(messages: mpsc::Receiver<T>, task: F) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self { messages, work: Work::Running(tokio::spawn(task)), ends_with_senders: false }
    }

    /// The stream also ends when the last sender is dropped although the task would go on: so the shell closes a link.
    pub(crate) fn ending_with_senders(mut self) -> Self {
        self.ends_with_senders = true;
        self
    }
}

impl Work {
    /// Ready once the task has finished.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Running(task) = self {
            let error = match Pin::new(task).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(result)) => result.err(),
                Poll::Ready(Err(join)) => {
                    tracing::error!(error = %join, "a stream's task ended without a result");
                    Some(Error::Panicked)
                }
            };
            *self = Self::Done(error);
        }
        Poll::Ready(())
    }
}

impl<T: Send + 'static> Stream for Produced<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.messages.poll_recv(cx) {
                Poll::Ready(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Poll::Ready(None) => {
                    if this.work.poll(cx).is_pending() && !this.ends_with_senders {
                        return Poll::Pending;
                    }
                    let Work::Done(error) = &mut this.work else { return Poll::Ready(None) };
                    return Poll::Ready(error.take().map(|error| Err(error.into())));
                }
                Poll::Pending => {
                    if this.work.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // Others may hold senders still; what is queued leaves, nothing new enters.
                    this.messages.close();
                }
            }
        }
    }
}

impl<T> Drop for Produced<T> {
    fn drop(&mut self) {
        if let Work::Running(task) = &self.work {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    async fn all(stream: Produced<u32>) -> (Vec<u32>, Option<tonic::Code>) {
        let mut seen = (Vec::new(), None);
        tokio::pin!(stream);
        while let Some(item) = stream.next().await {
            match item {
                Ok(number) => seen.0.push(number),
                Err(status) => seen.1 = Some(status.code()),
            }
        }
        seen
    }

    #[tokio::test]
    async fn messages_come_before_the_error() {
        let (tx, rx) = mpsc::channel(4);
        let also = tx.clone();
        let stream = Produced::new(rx, async move {
            for number in 0..9 {
                let _ = tx.send(number).await;
            }
            Err(Error::Stopping)
        });
        assert_eq!(all(stream).await, ((0..9).collect(), Some(tonic::Code::Unavailable)));
        assert!(also.is_closed());
    }

    #[tokio::test]
    async fn a_panic_is_no_complete_answer() {
        let (tx, rx) = mpsc::channel(4);
        let stream = Produced::new(rx, async move {
            let _ = tx.send(1).await;
            panic!("on purpose");
        });
        assert_eq!(all(stream).await, (vec![1], Some(tonic::Code::Internal)));
    }

    #[tokio::test]
    async fn a_link_ends_when_its_senders_are_gone() {
        let (tx, rx) = mpsc::channel(4);
        let stream = Produced::new(rx, std::future::pending()).ending_with_senders();
        let _ = tx.send(7).await;
        drop(tx);
        assert_eq!(all(stream).await, (vec![7], None));
    }
}
