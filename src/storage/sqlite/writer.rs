//! The thread that holds the connection: writes that wait at the same time share a transaction, and one trip to the disk.
//!
//! Apart from what is read and written: here it is decided when, and what becomes of the others when one fails. Nobody waits
//! for company; while one group is on its way to the disk, the next gathers. Each write has a savepoint of its own, so that it
//! happens whole or not at all whatever its neighbours do, and is answered when the group is on the disk.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::failed;
use crate::platform::clock::BoxFuture;
use crate::storage::StoreError;

/// Calls that are taken at once, at most: who comes after them waits no longer than these take.
const GROUP_CALLS: usize = 256;
/// Bytes after which a group takes no further write.
const GROUP_BYTES: usize = 4 << 20;
/// What all calls that wait may hold, in KiB; who comes then waits outside, and costs nothing when it goes away.
const ROOM: usize = 64 << 10;
const KIB: usize = 1 << 10;

/// What went wrong inside a call: SQLite's error, or one with a meaning of its own.
pub(super) enum Fault<E> {
    Sqlite(rusqlite::Error),
    Own(E),
}

impl<E> From<rusqlite::Error> for Fault<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Hands calls to the thread, which ends when the last of these is gone.
#[derive(Clone)]
pub(super) struct Writer {
    calls: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    place: Arc<str>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Writer {
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(connection: Connection, place: &str) -> Result<Self, StoreError> {
        let (calls, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || serve(connection, &received))
            .map_err(|e| StoreError { operation: "open", place: place.to_owned(), cause: e.to_string() })?;
        Ok(Self { calls, room: Arc::new(Semaphore::new(ROOM)), place: place.into() })
    }

    /// File, for the user.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Sees every write that was answered before, and perhaps some that wait beside it.
    pub(super) fn read<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault<E>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>> {
        self.call(Kind::Read, "read", 0, work)
    }

    /// All of `work` or nothing, on the disk before it is answered. `bytes` is what it holds until then. If the caller goes
    /// away, it happens or not.
    pub(super) fn write<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        operation: &'static str,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, Fault<E>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>> {
        self.call(Kind::Write, operation, bytes, work)
    }

    fn call<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        kind: Kind,
        operation: &'static str,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, Fault<E>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>> {
        let Self { calls, room, place } = self.clone();
        Box::pin(async move {
            let share = u32::try_from(bytes.div_ceil(KIB).clamp(1, ROOM)).unwrap_or(u32::MAX);
            let share = room.acquire_many_owned(share).await.expect("it is never closed");
            let (answer, answered) = oneshot::channel();
            let closed = StoreError { operation, place: place.to_string(), cause: "the store was closed".to_owned() };
            let call = Box::new(Job { work: Some(work), result: None, answer, operation, place, _share: share });
            match calls.send(Waiting { kind, bytes, call }) {
                Ok(()) => answered.await.unwrap_or_else(|_| Err(closed.into())),
                Err(_) => Err(closed.into()),
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

struct Waiting {
    kind: Kind,
    bytes: usize,
    call: Box<dyn Call>,
}

/// A call whatever its result is.
trait Call: Send {
    /// Whether somebody still waits for it.
    fn is_wanted(&self) -> bool;
    /// Whether what it wrote is to stay.
    fn run(&mut self, connection: &Connection) -> bool;
    /// `shared`: what became of the transaction.
    fn answer(self: Box<Self>, shared: Result<(), &Lost>);
}

/// Why a transaction was lost with all that was in it.
enum Lost {
    Sqlite(rusqlite::Error),
    /// By SQLite itself, with the error that one of its writes has.
    GivenUp,
}

impl From<rusqlite::Error> for Lost {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

struct Job<T, E, W> {
    work: Option<W>,
    result: Option<Result<T, Fault<E>>>,
    answer: oneshot::Sender<Result<T, E>>,
    operation: &'static str,
    place: Arc<str>,
    _share: OwnedSemaphorePermit,
}

impl<T, E: From<StoreError>, W> Job<T, E, W> {
    fn error(&self, cause: &str) -> E {
        StoreError { operation: self.operation, place: self.place.to_string(), cause: cause.to_owned() }.into()
    }
}

impl<T, E, W> Call for Job<T, E, W>
where
    T: Send,
    E: From<StoreError> + Send,
    W: FnOnce(&Connection) -> Result<T, Fault<E>> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        // What a panic leaves behind is in the file alone, and is rolled back there.
        let ended = catch_unwind(AssertUnwindSafe(|| work(connection)));
        let result = ended.unwrap_or_else(|_| Err(Fault::Own(self.error("the program has a bug: the call panicked"))));
        self.result.insert(result).is_ok()
    }

    fn answer(mut self: Box<Self>, shared: Result<(), &Lost>) {
        let sqlite = |error| E::from(failed(self.operation, &self.place, error));
        let result = match (shared, self.result.take()) {
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), Some(Err(Fault::Own(error)))) => Err(error),
            (_, Some(Err(Fault::Sqlite(error)))) => Err(sqlite(&error)),
            // A conflict too: with what it met there, it was lost itself.
            (Err(Lost::Sqlite(error)), _) => Err(sqlite(error)),
            (Err(Lost::GivenUp), _) => Err(self.error("another write beside it broke the transaction; is the disk full?")),
            (Ok(()), None) => Err(self.error("it was not begun")),
        };
        drop(self.answer.send(result)); // a caller that went away needs no answer
    }
}

fn serve(mut connection: Connection, calls: &mpsc::Receiver<Waiting>) {
    while let Ok(first) = calls.recv() {
        let (mut reads, mut writes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(Waiting { kind, bytes: more, call }) = next {
            match kind {
                Kind::Read => reads.push(call),
                Kind::Write => writes.push(call),
            }
            bytes += more;
            let full = reads.len() + writes.len() >= GROUP_CALLS || bytes >= GROUP_BYTES;
            next = if full { None } else { calls.try_recv().ok() };
        }
        let shared = if writes.is_empty() { Ok(()) } else { write(&mut connection, &mut writes) };
        for call in writes {
            call.answer(shared.as_ref().copied());
        }
        // After the writes: each sees those that were handed over before it.
        for mut call in reads {
            call.run(&connection);
            call.answer(Ok(()));
        }
    }
}

/// One transaction, on the disk when this returns.
fn write(connection: &mut Connection, calls: &mut [Box<dyn Call>]) -> Result<(), Lost> {
    // The write lock first: what is checked under it stays as it is, whoever else has the file open.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let savepoint = |statement| transaction.prepare_cached(statement)?.execute([]);
    let mut anything = false;
    // The lock may have been long in coming: a write that nobody waits for any more comes again from elsewhere.
    for call in calls.iter_mut().filter(|call| call.is_wanted()) {
        savepoint("SAVEPOINT one")?;
        if call.run(&transaction) {
            anything = true;
        } else if transaction.is_autocommit() {
            return Err(Lost::GivenUp);
        } else {
            savepoint("ROLLBACK TO one")?;
        }
        savepoint("RELEASE one")?;
    }
    // Refusals alone need no trip to the disk.
    if anything { Ok(transaction.commit()?) } else { Ok(transaction.rollback()?) }
}
