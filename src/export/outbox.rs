//! The outbox: batches under way, their intents, and what is done when one gets no answer.
//!
//! Knows sinks and intents; not pages, claims or rows. An intent is saved before its batch is sent; who commits an
//! item's answer asks [`Outbox::close`] which intent rows may go with it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ledger::{Ledger, LedgerError};
use super::rows::{Intent, IntentItem, encode, intent_key};
use crate::sinks::{Answer, SendError, SendErrorKind, Sink, Upload, Withdrawal};
use crate::storage::{VALUE_BYTES, Write};

/// Batches of any size without an answer, one after the other, after which the target counts as out of service.
const FAILURES_IN_A_ROW: u32 = 4;
/// The same for whole batches.
const WHOLE_BATCHES_IN_A_ROW: u32 = 2;

/// Batches made ready for each that may be under way.
const READY: usize = 3;

/// One item of a batch.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// Names the item to its sender.
    pub token: usize,
    pub load: Load,
    pub intent: IntentItem,
    /// Its time of sending.
    pub modified: jiff::Timestamp,
}

/// What is sent.
#[derive(Debug)]
pub(crate) enum Load {
    Upload(Upload),
    Withdrawal(Withdrawal),
}

/// Why nothing more can be sent now.
#[derive(Debug, Clone)]
pub(crate) enum Halt {
    /// The target is out of service.
    Outage(SendError),
    /// Nothing will pass until a setting or a permission is changed.
    Systemic(SendError),
}

/// Batches of one sink under way.
#[derive(Debug)]
pub(crate) struct Outbox {
    sink: Arc<dyn Sink>,
    run: String,
    /// Batches that may be under way at once.
    places: Arc<Semaphore>,
    sends: JoinSet<(Batch, Result<Vec<Answer>, SendError>)>,
    /// Open items per intent number.
    open: HashMap<u64, usize>,
    intent_of: HashMap<usize, u64>,
    next_intent: u64,
    failures: u32,
    whole_failures: u32,
}

#[derive(Debug)]
struct Batch {
    tokens: Vec<usize>,
    loads: Loads,
    /// Not a part of one that failed.
    whole: bool,
}

#[derive(Debug)]
enum Loads {
    Uploads(Vec<Upload>),
    Withdrawals(Vec<Withdrawal>),
}

impl Outbox {
    pub(crate) fn new(sink: Arc<dyn Sink>, run: &str) -> Self {
        Self {
            places: Arc::new(Semaphore::new(sink.limits().concurrency)),
            sink,
            run: run.to_owned(),
            sends: JoinSet::new(),
            open: HashMap::new(),
            intent_of: HashMap::new(),
            next_intent: 0,
            failures: 0,
            whole_failures: 0,
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.sends.len()
    }

    /// More batches are made ready than are under way at once, so that sending goes on while a page is committed.
    pub(crate) fn has_room(&self) -> bool {
        self.sends.len() < self.sink.limits().concurrency * READY
    }

    /// Saves the intent, then sends; in several batches where one intent row cannot hold all.
    pub(crate) async fn dispatch(&mut self, ledger: &mut Ledger, parcels: Vec<Parcel>) -> Result<(), LedgerError> {
        let mut waiting = vec![parcels];
        while let Some(mut parcels) = waiting.pop() {
            let value = encode(&intent(&parcels));
            if value.len() > VALUE_BYTES && parcels.len() > 1 {
                let half = parcels.split_off(parcels.len() / 2);
                waiting.extend([half, parcels]);
                continue;
            }
            let number = self.next_intent;
            self.next_intent += 1;
            ledger.commit(vec![Write::Put { key: intent_key(&self.run, number), value }]).await?;
            self.open.insert(number, parcels.len());
            self.intent_of.extend(parcels.iter().map(|parcel| (parcel.token, number)));
            self.send(Batch::of(parcels));
        }
        Ok(())
    }

    fn send(&mut self, batch: Batch) {
        let (sink, places) = (Arc::clone(&self.sink), Arc::clone(&self.places));
        self.sends.spawn(async move {
            let _place = places.acquire().await;
            let answers = match &batch.loads {
                Loads::Uploads(items) => sink.send(items).await,
                Loads::Withdrawals(items) => sink.withdraw(items).await,
            };
            (batch, answers)
        });
    }

    /// The next answers; pending for ever when nothing is under way.
    pub(crate) async fn answers(&mut self) -> Result<Vec<(usize, Answer)>, Halt> {
        let (batch, answers) = match self.sends.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => {
                let message = format!("a request ended abnormally: {error}");
                return Err(Halt::Outage(SendError::new(SendErrorKind::Transient, message, None)));
            }
            None => std::future::pending().await,
        };
        match answers {
            Ok(answers) => {
                self.failures = 0;
                self.whole_failures = 0;
                Ok(batch.tokens.into_iter().zip(answers).collect())
            }
            Err(error) => self.mend(batch, error),
        }
    }

    /// A batch without answers: halved to find the culprit, given up item by item, or the sign of an outage.
    fn mend(&mut self, mut batch: Batch, error: SendError) -> Result<Vec<(usize, Answer)>, Halt> {
        match error.kind {
            SendErrorKind::Systemic => return Err(Halt::Systemic(error)),
            SendErrorKind::Transient => {
                self.failures += 1;
                self.whole_failures += u32::from(batch.whole);
                if self.whole_failures >= WHOLE_BATCHES_IN_A_ROW
                    || self.failures >= FAILURES_IN_A_ROW
                    || error.retry_after.is_some()
                {
                    return Err(Halt::Outage(error));
                }
            }
            SendErrorKind::TooMuch if batch.tokens.len() == 1 => {
                // Halving has found nothing that passes: not too much, but out of service.
                self.failures += 1;
                if self.failures >= FAILURES_IN_A_ROW {
                    return Err(Halt::Outage(error));
                }
            }
            SendErrorKind::Refused | SendErrorKind::TooMuch => {}
        }
        if error.kind != SendErrorKind::Refused {
            batch.may_have_arrived();
        }
        if let [token] = batch.tokens[..] {
            let answer = match error.kind {
                SendErrorKind::Refused => Answer::Refused { reason: error.message, correlation: error.correlation },
                _ => Answer::Unanswered { reason: error.message },
            };
            return Ok(vec![(token, answer)]);
        }
        for half in batch.halves() {
            self.send(half);
        }
        Ok(Vec::new())
    }

    /// The item's answer is being committed: the intent row to delete in the same transaction, if it was the last of its batch.
    pub(crate) fn close(&mut self, token: usize) -> Option<String> {
        let number = self.intent_of.remove(&token)?;
        let open = self.open.get_mut(&number)?;
        *open -= 1;
        (*open == 0).then(|| {
            self.open.remove(&number);
            intent_key(&self.run, number)
        })
    }
}

impl Batch {
    fn of(parcels: Vec<Parcel>) -> Self {
        let mut tokens = Vec::with_capacity(parcels.len());
        let (mut uploads, mut withdrawals) = (Vec::new(), Vec::new());
        for parcel in parcels {
            tokens.push(parcel.token);
            match parcel.load {
                Load::Upload(upload) => uploads.push(upload),
                Load::Withdrawal(item) => withdrawals.push(item),
            }
        }
        debug_assert!(uploads.is_empty() || withdrawals.is_empty(), "a batch is of one kind");
        let loads = if withdrawals.is_empty() { Loads::Uploads(uploads) } else { Loads::Withdrawals(withdrawals) };
        Self { tokens, loads, whole: true }
    }

    /// It is unknown what took effect: whoever sends it again looks first.
    fn may_have_arrived(&mut self) {
        let Loads::Uploads(uploads) = &mut self.loads else { return };
        for upload in uploads.iter_mut().filter(|upload| !upload.there.unsure.contains(&upload.external_id)) {
            upload.there.unsure.push(upload.external_id.clone());
        }
    }

    fn halves(mut self) -> [Self; 2] {
        let middle = self.tokens.len() / 2;
        let tokens = self.tokens.split_off(middle);
        let loads = match &mut self.loads {
            Loads::Uploads(uploads) => Loads::Uploads(uploads.split_off(middle)),
            Loads::Withdrawals(items) => Loads::Withdrawals(items.split_off(middle)),
        };
        self.whole = false;
        [self, Self { tokens, loads, whole: false }]
    }
}

fn intent(parcels: &[Parcel]) -> Intent {
    Intent {
        items: parcels.iter().map(|parcel| parcel.intent.clone()).collect(),
        modified: parcels.iter().map(|parcel| parcel.modified).max().unwrap_or(jiff::Timestamp::UNIX_EPOCH),
    }
}
