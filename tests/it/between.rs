//! Somebody between the product and its rows and queues: what is written happens, is refused, or happens and nobody hears of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use indicator_relay::platform::clock::BoxFuture;
use indicator_relay::storage::{CommitError, Message, Opened, Queue, Row, StateStore, StoreError, Version, Write};

/// What becomes of a transaction, or of a message that is put.
pub(crate) enum Fate {
    Happens,
    Refused(StoreError),
    /// It happens, or not, as it would have; the answer is lost.
    Unheard(StoreError),
}

/// Who is in between.
pub(crate) trait Hooks: fmt::Debug + Send + Sync {
    /// Before rows are read.
    fn read(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Before something is written.
    fn write(&self) -> BoxFuture<'_, Fate>;
}

/// A store, a queue, or one that is both, behind `hooks`.
#[derive(Debug)]
pub(crate) struct Between<S: ?Sized, H> {
    inner: Arc<S>,
    pub(crate) hooks: H,
}

impl<S: ?Sized, H: Hooks> Between<S, H> {
    pub(crate) fn new(inner: &Arc<S>, hooks: H) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), hooks })
    }

    async fn write<T, E: From<StoreError>>(&self, write: BoxFuture<'_, Result<T, E>>) -> Result<T, E> {
        match self.hooks.write().await {
            Fate::Happens => write.await,
            Fate::Refused(error) => Err(error.into()),
            Fate::Unheard(error) => {
                drop(write.await);
                Err(error.into())
            }
        }
    }
}

impl<S: StateStore + ?Sized, H: Hooks> StateStore for Between<S, H> {
    fn get<'a>(&'a self, partition: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(async move {
            self.hooks.read()?;
            self.inner.get(partition, key).await
        })
    }

    fn get_many<'a>(&'a self, partition: &'a str, keys: Vec<String>) -> BoxFuture<'a, Result<Vec<Option<Row>>, StoreError>> {
        Box::pin(async move {
            self.hooks.read()?;
            self.inner.get_many(partition, keys).await
        })
    }

    fn scan<'a>(
        &'a self,
        partition: &'a str,
        from: &'a str,
        to: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>, StoreError>> {
        Box::pin(async move {
            self.hooks.read()?;
            self.inner.scan(partition, from, to, limit).await
        })
    }

    fn commit<'a>(&'a self, partition: &'a str, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Version>, CommitError>> {
        Box::pin(self.write(Box::pin(async move { self.inner.commit(partition, writes).await })))
    }
}

impl<S: Queue + ?Sized, H: Hooks> Queue for Between<S, H> {
    fn put<'a>(&'a self, queue: &'a str, body: Vec<u8>, delay: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write(Box::pin(async move { self.inner.put(queue, body, delay).await })))
    }

    fn receive<'a>(&'a self, queue: &'a str, limit: usize, hidden: Duration) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        self.inner.receive(queue, limit, hidden)
    }

    fn peek<'a>(&'a self, queue: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        self.inner.peek(queue, limit)
    }

    fn delete<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.inner.delete(queue, message)
    }

    fn release<'a>(&'a self, queue: &'a str, message: &'a Message, delay: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.inner.release(queue, message, delay)
    }

    fn open<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Option<Opened>, StoreError>> {
        self.inner.open(text)
    }

    fn discard<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.discard(opened)
    }

    fn count<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, StoreError>> {
        self.inner.count(queue)
    }

    fn probe<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.probe(queue)
    }
}

/// State and queues of a process that ends at its n-th write, whichever of the two it is.
pub(crate) type Mortal<S> = Between<S, Death>;

#[derive(Debug)]
pub(crate) struct Death {
    left: AtomicI64,
    /// The last write happens, but nobody hears of it.
    after: bool,
}

impl<S: ?Sized> Mortal<S> {
    pub(crate) fn at(inner: &Arc<S>, writes: i64, after: bool) -> Arc<Self> {
        Self::new(inner, Death { left: AtomicI64::new(writes), after })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.hooks.is_over()
    }
}

impl Death {
    fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }
}

impl Hooks for Death {
    fn read(&self) -> Result<(), StoreError> {
        if self.is_over() { Err(killed()) } else { Ok(()) }
    }

    fn write(&self) -> BoxFuture<'_, Fate> {
        let fate = match self.left.fetch_sub(1, Ordering::SeqCst) {
            2.. => Fate::Happens,
            1 if self.after => Fate::Unheard(killed()),
            _ => Fate::Refused(killed()),
        };
        Box::pin(std::future::ready(fate))
    }
}

fn killed() -> StoreError {
    StoreError { operation: "reach", place: "a test".to_owned(), cause: "the process was killed".to_owned() }
}
