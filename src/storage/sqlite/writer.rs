//! The thread that holds the connection: writes that wait at the same time share a transaction, and one trip to the disk.
//!
//! Apart from what is read and written: here it is decided when, and what becomes of the others when one fails. Nobody waits
//! for company; while one group is on its way to the disk, the next gathers. Each write has a savepoint of its own, so that it
//! happens whole or not at all whatever its neighbours do, and is answered when the group is on the disk.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

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
            let call = Box::new(Job { work: Some(work), result: None, answer, operation, place, share });
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
    share: OwnedSemaphorePermit,
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
            // A conflict too: it may have been with a write that was lost beside it.
            (Err(Lost::Sqlite(error)), _) => Err(sqlite(error)),
            (Err(Lost::GivenUp), _) => Err(self.error("another write beside it broke the transaction; is the disk full?")),
            (Ok(()), None) => Err(self.error("it was not begun")),
        };
        let Self { answer, share, .. } = *self;
        drop(share);
        drop(answer.send(result)); // a caller that went away needs no answer
    }
}

fn serve(mut connection: Connection, calls: &mpsc::Receiver<Waiting>) {
    while let Ok(first) = calls.recv() {
        let (mut reads, mut writes, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
        let mut next = Some(first);
        while let Some(Waiting { kind, bytes: more, call }) = next {
            match kind {
                Kind::Read => reads.push(call),
                Kind::Write => writes.push(call),
            }
            bytes = bytes.saturating_add(more);
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::Pin;
    use std::time::Duration;

    use futures_util::poll;

    use super::*;

    type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

    fn connection(path: &Path) -> Connection {
        let connection = Connection::open(path).expect("SQLite");
        connection.busy_timeout(Duration::ZERO).expect("set");
        let set = connection.pragma_update(None, "journal_mode", "WAL");
        set.and_then(|()| connection.execute_batch("CREATE TABLE IF NOT EXISTS n (n INTEGER UNIQUE)")).expect("a table");
        connection
    }

    fn all(connection: &Connection) -> Vec<i64> {
        let mut select = connection.prepare("SELECT n FROM n ORDER BY n").expect("SQL");
        select.query_map([], |row| row.get(0)).expect("read").map(|n| n.expect("a number")).collect()
    }

    fn add(connection: &Connection, n: i64) -> Result<(), Fault<StoreError>> {
        run(connection, &format!("INSERT INTO n VALUES ({n})"))
    }

    fn run(connection: &Connection, statement: &str) -> Result<(), Fault<StoreError>> {
        connection.execute(statement, [])?;
        Ok(())
    }

    /// The thread is kept busy until the sender goes, so that all that comes meanwhile is one group.
    async fn hold(writer: &Writer) -> mpsc::Sender<()> {
        let (begun, begins) = oneshot::channel();
        let (open, opened) = mpsc::channel();
        tokio::spawn(writer.read::<(), StoreError>(move |_| {
            begun.send(()).expect("somebody waits");
            opened.recv().expect_err("nothing is ever sent");
            Ok(())
        }));
        begins.await.expect("it runs");
        open
    }

    /// One write after the other, in one group.
    struct Group {
        writer: Writer,
        gate: mpsc::Sender<()>,
        answers: Vec<Answer<()>>,
    }

    impl Group {
        async fn of(writer: &Writer) -> Self {
            Self { writer: writer.clone(), gate: hold(writer).await, answers: Vec::new() }
        }

        async fn write(&mut self, work: impl FnOnce(&Connection) -> Result<(), Fault<StoreError>> + Send + 'static) {
            let mut answer: Answer<()> = self.writer.write("write", 8, work);
            assert!(poll!(Pin::new(&mut answer)).is_pending());
            self.answers.push(answer);
        }

        /// What went wrong with each; blank for what did not.
        async fn end(self) -> Vec<String> {
            drop(self.gate);
            let mut causes = Vec::new();
            for answer in self.answers {
                causes.push(answer.await.map_or_else(|error| error.cause, |()| String::new()));
            }
            causes
        }
    }

    #[tokio::test]
    async fn writes_share_a_transaction_and_each_fails_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        let writer = Writer::start(connection(&path), "a file").expect("a thread");
        let mut group = Group::of(&writer).await;
        group.write(|c| add(c, 1)).await;
        let refused = StoreError { operation: "write", place: String::new(), cause: "refused".to_owned() };
        group.write(|c| add(c, 2).and(Err(Fault::Own(refused)))).await;
        group.write(|c| add(c, 3).and_then(|()| add(c, 1))).await;
        group.write(|c| add(c, 4).map(|()| std::panic::resume_unwind(Box::new("a bug of this test")))).await;
        let other = connection(&path);
        group
            .write(move |c| {
                assert_eq!((all(&other), all(c)), (vec![], vec![1]), "others see nothing of it yet");
                add(c, 2)
            })
            .await;
        let causes = group.end().await;
        assert_eq!((causes[0].as_str(), causes[1].as_str(), causes[4].as_str()), ("", "refused", ""), "{causes:?}");
        assert!(causes[2].contains("UNIQUE") && causes[3].contains("bug"), "{causes:?}");
        assert_eq!(all(&connection(&path)), [1, 2]);
        writer.write("write", 8, |c| add(c, 3)).await.expect("it goes on");
    }

    #[tokio::test]
    async fn who_shared_a_transaction_that_is_lost_is_told_and_nothing_of_it_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.db");
        let own = connection(&path);
        own.execute_batch(
            "PRAGMA foreign_keys = ON; CREATE TABLE m (n INTEGER REFERENCES n (n) DEFERRABLE INITIALLY DEFERRED);
             CREATE TABLE b (b BLOB); PRAGMA max_page_count = 20",
        )
        .expect("tables");
        let writer = Writer::start(own, "a file").expect("a thread");

        // The commit fails.
        let mut group = Group::of(&writer).await;
        group.write(|c| add(c, 1)).await;
        group.write(|c| run(c, "INSERT INTO m VALUES (9)")).await;
        let conflict = StoreError { operation: "write", place: String::new(), cause: "a conflict with 1".to_owned() };
        group.write(|_| Err(Fault::Own(conflict))).await;
        let causes = group.end().await;
        assert!(causes.iter().all(|cause| cause.contains("FOREIGN KEY")), "{causes:?}");
        // SQLite gives it up, as it does on a full disk.
        for (statement, own) in [
            ("INSERT OR ROLLBACK INTO n VALUES (2), (2)", "UNIQUE"),
            ("INSERT INTO b VALUES (zeroblob(1000000))", "the disk is full"),
        ] {
            let mut group = Group::of(&writer).await;
            group.write(|c| add(c, 1)).await;
            group.write(|c| run(c, statement)).await;
            group.write(|c| add(c, 3)).await;
            let causes = group.end().await;
            let beside = |i: usize| causes[i].contains("beside");
            assert!(beside(0) && causes[1].contains(own) && beside(2), "{causes:?}");
        }
        // Somebody else has the file.
        let other = connection(&path);
        other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        let mut group = Group::of(&writer).await;
        group.write(|c| add(c, 1)).await;
        group.write(|c| add(c, 2)).await;
        let causes = group.end().await;
        assert!(causes.iter().all(|cause| cause.contains("another process")), "{causes:?}");

        other.execute_batch("COMMIT").expect("the lock is free");
        assert_eq!(all(&other), [0; 0]);
        writer.write("write", 8, |c| add(c, 1)).await.expect("it goes on");
        assert_eq!(all(&other), [1]);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_goes_with_its_caller() {
        let folder = tempfile::tempdir().expect("a folder");
        let writer = Writer::start(connection(&folder.path().join("state.db")), "a file").expect("a thread");
        let gate = hold(&writer).await;
        let mut large: Answer<()> = writer.write("write", ROOM * KIB - 3 * KIB, |c| add(c, 1));
        let mut gone: Answer<()> = writer.write("write", 2 * KIB, |c| add(c, 2));
        let mut outside: Answer<()> = writer.write("write", KIB, |c| add(c, 3));
        for answer in [&mut large, &mut gone, &mut outside] {
            assert!(poll!(Pin::new(answer)).is_pending());
        }
        assert_eq!(writer.room.available_permits(), 0);
        drop((gone, gate));
        large.await.expect("written");
        outside.await.expect("written");
        let there: Result<Vec<i64>, StoreError> = writer.read(|c| Ok(all(c))).await;
        assert_eq!(there.expect("read"), [1, 3], "nobody waits for the other");
        // More than all the room is as much as all of it.
        writer.write("write", usize::MAX, |c| add(c, 4)).await.expect("written");
        assert_eq!(writer.room.available_permits(), ROOM);
    }
}
