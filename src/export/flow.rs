//! The flow of one read: pages in, decisions, batches out, commits in the order of the pages.
//!
//! One task holds all of it; reading, drafting and sending run beside it. Nothing is shared, so nothing is locked.

mod admission;
mod join;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};

use super::capacity::{Capacity, NO_PLACE_TO_REPLACE, Selector};
use super::decide::{InFlight, Rules, Sighting, Verdict, decide};
use super::ledger::{Ledger, LedgerError, Packer};
use super::outbox::{Halt, Load, Outbox, Parcel};
use super::reader::{DraftedPage, expiry, read_ahead};
use super::record::RunRecord;
use super::report::{Mode, Tally};
use super::rows::{Claim, GoneReason, Holder, IntentItem, TargetRow, claim_key, encode, run_key, target_key};
use super::settle::{ranked, release, settle};
use super::{Job, Progress};
use crate::indicator::ObservableKey;
use crate::sinks::{Answer, Stamp, There, Upload};
use crate::threatconnect;
use join::Joined;

/// Pages that are decided and not yet committed, at most.
const WINDOW_PAGES: usize = 3;
/// The same in sightings: large pages are taken one at a time.
const WINDOW_SIGHTINGS: usize = 6_000;
/// Items refused alike, with none accepted, that are a matter of settings and not of items.
const REFUSED_ALIKE: usize = 100;

/// Why a read ended before its empty page.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The time budget is over: a continuation goes on.
    Budget,
    Source(threatconnect::Error),
    Target(Halt),
    /// So many items refused with the same words, and none accepted.
    RefusedAlike {
        count: usize,
        reason: String,
    },
    Ledger(LedgerError),
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// One read in progress.
pub(crate) struct Flow<'a> {
    pub ledger: &'a mut Ledger,
    pub job: &'a Job,
    pub record: &'a mut RunRecord,
    pub progress: &'a Progress,
    /// Monotonic time at which the budget is over.
    pub deadline: Option<Duration>,
    /// From then on nothing more is sent; what is under way is waited for.
    pub cut_off: Option<Duration>,
    /// A page of this turn was committed.
    progressed: bool,
    pub capacity: &'a mut Capacity,
    /// This pass only ranks: nothing is sent, nothing counted.
    pub selector: Option<Selector>,
    /// What ranks higher may take the place of what ranks lower.
    pub displaces: bool,
    /// Nothing is known of a target that is not empty: it is looked at before something new is made there.
    pub looks_first: bool,
    outbox: Outbox,
    pages: VecDeque<PageWork>,
    next_page: u64,
    /// Rows that pages under way refer to; none if there is no such row yet.
    rows: HashMap<ObservableKey, (Option<TargetRow>, usize)>,
    in_flight: InFlight,
    /// Decided, not yet dispatched: page and place.
    waiting: VecDeque<(u64, usize)>,
    /// Those that are sent as new objects beside the old ones: as many at once as there are free places.
    replacing: VecDeque<(u64, usize)>,
    /// Page and place of each item under way.
    tokens: HashMap<usize, (u64, usize)>,
    next_token: usize,
}

/// A page under way.
struct PageWork {
    number: u64,
    page: DraftedPage,
    last_id: u64,
    /// Sightings that wait for an answer.
    outstanding: usize,
    /// Keys whose rows it holds.
    keys: Vec<ObservableKey>,
    joined: Joined,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(
        ledger: &'a mut Ledger,
        job: &'a Job,
        record: &'a mut RunRecord,
        progress: &'a Progress,
        deadline: Option<Duration>,
        capacity: &'a mut Capacity,
    ) -> Self {
        let outbox = Outbox::new(Arc::clone(&job.sink), &record.run);
        Self {
            ledger,
            job,
            record,
            progress,
            deadline,
            cut_off: None,
            progressed: false,
            capacity,
            selector: None,
            displaces: false,
            looks_first: false,
            outbox,
            pages: VecDeque::new(),
            next_page: 0,
            rows: HashMap::new(),
            in_flight: InFlight::new(),
            waiting: VecDeque::new(),
            replacing: VecDeque::new(),
            tokens: HashMap::new(),
            next_token: 0,
        }
    }

    /// Reads from the cursor to the end; every page that was answered is committed, whatever ends the read.
    pub(crate) async fn read(&mut self) -> Result<(), Stop> {
        let pages = self.job.client.pages(&self.job.filter, self.record.since, self.record.cursor);
        let clock = Arc::clone(self.ledger.clock());
        let mut reader = read_ahead(pages, Arc::clone(&self.job.sink), Arc::clone(&self.job.terms), Arc::clone(&clock));
        let mut ended: Option<Result<(), Stop>> = None;
        loop {
            let over = self.progress.is_stopped() || self.deadline.is_some_and(|deadline| clock.monotonic() >= deadline);
            if ended.is_none() && over {
                ended = Some(Err(Stop::Budget));
            }
            // Not before a page of this turn is committed: a run whose pages take longer than a turn would never come further.
            let cut_off = self.progressed && self.cut_off.is_some_and(|at| clock.monotonic() >= at);
            if !cut_off {
                self.dispatch(ended.is_some()).await?;
                self.dispatch_replacing().await?;
            }
            self.commit_answered().await?;
            if ended.is_some() && self.pages.is_empty() {
                break;
            }
            if cut_off && self.outbox.under_way() == 0 {
                // The pages that are left are read again; what of them was sent is an intent, as after a kill.
                return Err(Stop::Budget);
            }
            let take = ended.is_none() && self.has_window();
            if !take && self.outbox.under_way() == 0 {
                continue; // what waits is dispatched on the next turn
            }
            let renewal = clock.alarm(self.ledger.renewal_due_in());
            tokio::select! {
                page = reader.recv(), if take => match page {
                    Some(Ok(page)) if page.is_last() => {
                        self.take(page).await?;
                        ended = Some(Ok(()));
                    }
                    Some(Ok(page)) => self.take(page).await?,
                    Some(Err(error)) => ended = Some(Err(Stop::Source(error))),
                    None => ended = Some(Ok(())),
                },
                answers = self.outbox.answers(), if self.outbox.under_way() > 0 => match answers {
                    Ok(answers) => self.note(answers),
                    Err(halt) => return Err(Stop::Target(halt)),
                },
                () = renewal => self.ledger.renew().await?,
            }
        }
        ended.unwrap_or(Ok(()))
    }

    fn has_window(&self) -> bool {
        let sightings: usize = self.pages.iter().map(|page| page.page.sightings.len()).sum();
        self.pages.is_empty() || (self.pages.len() < WINDOW_PAGES && sightings < WINDOW_SIGHTINGS)
    }

    /// Decides a page that was read.
    async fn take(&mut self, mut page: DraftedPage) -> Result<(), Stop> {
        if self.record.server_time.is_none() {
            self.record.server_time = page.server_time;
        }
        if self.record.count.is_none() {
            self.record.count = page.count;
            self.progress.expect(page.count.unwrap_or(0));
        }
        let after = self.pages.back().map_or(self.record.cursor, |before| before.last_id);
        let last_id = page.ids.last().copied().unwrap_or(if page.is_last() { u64::MAX } else { after });
        let joined = match self.record.mode {
            Mode::Full => join::range(self.ledger, self.job, self.record, &mut page, after, last_id).await?,
            Mode::Incremental => join::ids(self.ledger, self.job, &mut page).await?,
        };
        let now = self.ledger.clock().now();
        let mut work = PageWork { number: self.next_page, page, last_id, outstanding: 0, keys: Vec::new(), joined };
        self.next_page += 1;
        self.decide_page(&mut work, now).await?;
        if self.selector.is_none() {
            self.progress.read(work.page.tally.read.indicators);
        }
        self.pages.push_back(work);
        Ok(())
    }

    async fn decide_page(&mut self, work: &mut PageWork, now: Timestamp) -> Result<(), Stop> {
        let rules = rules(self.job, self.record, now);
        let sightings = &mut work.page.sightings;
        let mut groups: HashMap<ObservableKey, Vec<usize>> = HashMap::new();
        let mut order = Vec::new();
        let mut settled = Vec::new();
        for (i, sighting) in sightings.iter_mut().enumerate() {
            let Some((_, key)) = &sighting.observable else {
                sighting.verdict = Verdict::Skipped;
                continue;
            };
            let key = *key;
            if sighting.made.is_err() {
                sighting.verdict = Verdict::Skipped;
                continue;
            }
            match rules.settled_by_claim(sighting).filter(|_| !self.in_flight.contains_key(&key)) {
                Some(verdict) => {
                    sighting.verdict = verdict;
                    settled.push((key, i));
                }
                None => groups
                    .entry(key)
                    .or_insert_with(|| {
                        order.push(key);
                        Vec::new()
                    })
                    .push(i),
            }
        }
        for (key, i) in settled {
            if let Some(group) = groups.get_mut(&key) {
                group.push(i); // its row is contested within this page
            }
        }
        hold_rows(&mut self.rows, self.ledger, self.capacity, &order).await?;
        let mut sends = Vec::new();
        for key in &order {
            let row = self.rows.get(key).and_then(|(row, _)| row.as_ref());
            decide(sightings, &groups[key], row, &rules, self.in_flight.get(key));
            sends.extend(groups[key].iter().copied().filter(|i| matches!(sightings[*i].verdict, Verdict::Send(_))));
        }
        work.keys = order;
        if self.selector.is_some() {
            self.offer(work, &sends);
            return Ok(());
        }
        self.admit(work, &mut sends).await?;
        for i in sends {
            let sighting = &work.page.sightings[i];
            let Some((_, key)) = &sighting.observable else { continue };
            self.in_flight.insert(*key, (Holder(self.job.name.clone(), sighting.id), sighting.weight));
            let beside = self.capacity.is_limited() && self.is_replaced(sighting);
            if beside { &mut self.replacing } else { &mut self.waiting }.push_back((work.number, i));
            work.outstanding += 1;
        }
        Ok(())
    }

    /// Sends what waits: full batches, and a part of one when nothing else can fill it.
    async fn dispatch(&mut self, ended: bool) -> Result<(), LedgerError> {
        let size = self.job.sink.limits().batch;
        loop {
            let stuck = ended || (!self.has_window() && self.outbox.under_way() == 0);
            let ready = self.waiting.len() >= size || (stuck && !self.waiting.is_empty());
            if !ready || !self.outbox.has_room() {
                return Ok(());
            }
            let places: Vec<(u64, usize)> = self.waiting.drain(..size.min(self.waiting.len())).collect();
            let now = self.ledger.clock().now();
            let parcels = places.into_iter().filter_map(|place| self.parcel(place, now)).collect();
            self.outbox.dispatch(self.ledger, parcels).await?;
        }
    }

    /// Sends what is replaced, as far as places are free; what can never have one is not sent.
    async fn dispatch_replacing(&mut self) -> Result<(), LedgerError> {
        let size = self.job.sink.limits().batch;
        while !self.replacing.is_empty() && self.outbox.has_room() {
            let now = self.ledger.clock().now();
            let mut parcels = Vec::new();
            while let Some(&place) = self.replacing.front().filter(|_| parcels.len() < size) {
                let key = self.sighting(place).and_then(|sighting| sighting.observable.as_ref().map(|(_, key)| *key));
                if !key.is_some_and(|key| self.capacity.double(key)) {
                    break;
                }
                self.replacing.pop_front();
                parcels.extend(self.parcel(place, now));
            }
            if !parcels.is_empty() {
                self.outbox.dispatch(self.ledger, parcels).await?;
            } else if self.outbox.under_way() == 0 && self.waiting.is_empty() {
                while let Some((number, i)) = self.replacing.pop_front() {
                    let Some(work) = self.pages.iter_mut().find(|page| page.number == number) else { continue };
                    let sighting = &mut work.page.sightings[i];
                    sighting.verdict = Verdict::OverCap(NO_PLACE_TO_REPLACE);
                    work.outstanding -= 1;
                    if let Some((_, key)) = &sighting.observable {
                        self.in_flight.remove(key);
                    }
                }
            } else {
                break;
            }
        }
        Ok(())
    }

    fn sighting(&self, (number, i): (u64, usize)) -> Option<&Sighting> {
        self.pages.iter().find(|page| page.number == number).map(|page| &page.page.sightings[i])
    }

    fn parcel(&mut self, (number, i): (u64, usize), now: Timestamp) -> Option<Parcel> {
        let work = self.pages.iter_mut().find(|page| page.number == number)?;
        let sighting = &mut work.page.sightings[i];
        let (observable, key) = sighting.observable.as_ref()?;
        let draft = sighting.made.as_mut().ok()?;
        let row = self.rows.get(key).and_then(|(row, _)| row.as_ref());
        let stamp = stamp(now, draft.created, draft.expiration_days, row);
        sighting.stamp = Some(stamp);
        let token = self.next_token;
        self.next_token += 1;
        self.tokens.insert(token, (number, i));
        let beside = row.is_some_and(|row| row.is_replaced_by(Some(draft.identity)));
        let sent = IntentItem::sent(&self.job.name, sighting.id, &sighting.owner, (observable, *key), draft);
        let intent = IntentItem { beside, ..sent };
        let payload = self.job.sink.payload(draft, stamp);
        draft.content = Vec::new(); // what is compared later is its hash
        if let Some(journal) = self.progress.journal() {
            journal.payload(&payload);
        }
        let there = match row.filter(|row| row.at_target) {
            Some(row) => row.there(Some(draft.identity)),
            None if self.looks_first => TargetRow::unknown(&draft.external_id),
            None => There::default(),
        };
        let upload = Upload { observable: observable.clone(), external_id: draft.external_id.clone(), payload, there };
        Some(Parcel { token, load: Load::Upload(upload), intent, modified: stamp.modified })
    }

    fn note(&mut self, answers: Vec<(usize, Answer)>) {
        for (token, answer) in answers {
            let Some(&(number, i)) = self.tokens.get(&token) else { continue };
            let Some(work) = self.pages.iter_mut().find(|page| page.number == number) else { continue };
            let sighting = &mut work.page.sightings[i];
            if sighting.answer.is_none() {
                work.outstanding -= 1;
                if let Some((_, key)) = &sighting.observable {
                    self.capacity.answered(*key, &answer);
                }
                self.record.accepted_by_worker |= matches!(answer, Answer::Accepted { .. });
            }
            sighting.answer = Some(answer);
        }
    }

    /// Commits the pages at the front that have all their answers.
    async fn commit_answered(&mut self) -> Result<(), Stop> {
        while self.pages.front().is_some_and(|page| page.outstanding == 0) {
            let Some(work) = self.pages.pop_front() else { break };
            refused_alike(&work, self.record)?;
            if self.selector.is_some() {
                self.commit_ranked(work).await?;
            } else {
                self.commit(work).await?;
            }
            self.progressed = true;
        }
        Ok(())
    }

    /// First pass: what is gone or released is marked, claims get their rank of today. The place is saved only at its end.
    async fn commit_ranked(&mut self, work: PageWork) -> Result<(), Stop> {
        let now = self.ledger.clock().now();
        let rules = rules(self.job, self.record, now);
        let mut packer = Packer::new(self.ledger);
        let mut absent = None;
        for sighting in &work.page.sightings {
            let key = sighting.observable.as_ref().map(|(_, key)| *key);
            let row = key.and_then(|key| self.rows.get_mut(&key)).map_or(&mut absent, |(row, _)| row);
            packer.add(ranked(sighting, row, &rules)).await?;
            if let (Some(key), Some(row)) = (key, row) {
                self.capacity.follow(row, key, &self.job.places);
            }
        }
        for (id, key, claim) in &work.joined.released {
            packer.add(release(Some(claim), *id, *key, GoneReason::Released, &rules)).await?;
        }
        packer.flush().await?;
        let selection = self.record.selection.get_or_insert_default();
        selection.read += work.page.tally.read.indicators;
        self.count_page(&work);
        self.let_go(&work);
        Ok(())
    }

    /// What a pass knows of the source, whether it sends or not.
    fn count_page(&mut self, work: &PageWork) {
        let record = &mut *self.record;
        record.cursor = record.cursor.max(if work.last_id == u64::MAX { record.cursor } else { work.last_id });
        record.without_id += work.page.without_id;
        record.claims_seen += work.joined.seen;
        for (owner, count) in &work.page.owners {
            *record.owners_read.entry(owner.clone()).or_default() += count;
        }
    }

    async fn commit(&mut self, work: PageWork) -> Result<(), Stop> {
        let now = self.ledger.clock().now();
        let job = &self.job.name;
        let mut tally = Tally::default();
        let mut closed = Vec::new();
        {
            let rules = rules(self.job, self.record, now);
            let mut packer = Packer::new(self.ledger);
            let mut absent = None;
            // Winners first: what loses to them then finds the row as it will be.
            let sent = |sighting: &&Sighting| matches!(sighting.verdict, Verdict::Send(_));
            let all = &work.page.sightings;
            for sighting in all.iter().filter(sent).chain(all.iter().filter(|sighting| !sent(sighting))) {
                let key = sighting.observable.as_ref().map(|(_, key)| *key);
                let row = key.and_then(|key| self.rows.get_mut(&key)).map_or(&mut absent, |(row, _)| row);
                let mut settled = settle(sighting, row, &rules, &mut tally);
                if let Some(journal) = self.progress.journal() {
                    journal.sighting(sighting);
                }
                if let (Some(holder), Some(key)) = (settled.dethroned.take(), key) {
                    let claim = claim_key(&holder.0, holder.1, key);
                    if let Some(loser) = packer.read::<Claim>(&claim).await? {
                        let loser = Claim { hash: None, won: false, ..loser };
                        settled.group.insert(0, (claim, Some(encode(&loser))));
                    }
                }
                packer.add(settled.group).await?;
                if let (Some(key), Some(row)) = (key, row) {
                    self.capacity.has_row(key);
                    self.capacity.follow(row, key, &self.job.places);
                }
                absent = None;
            }
            for (id, key, claim) in &work.joined.released {
                packer.add(release(Some(claim), *id, *key, GoneReason::Released, &rules)).await?;
            }
            self.tokens.retain(|token, (number, _)| {
                let mine = *number == work.number;
                if mine {
                    closed.extend(self.outbox.close(*token));
                }
                !mine
            });
            packer.flush().await?;
        }
        tally.add(&work.page.tally);
        self.count_page(&work);
        let record = &mut *self.record;
        record.tally.add(&tally);
        record.count_traffic(self.job);
        self.progress.answered(&tally);
        let mut group: Vec<_> = closed.into_iter().map(|key| (key, None)).collect();
        group.push((run_key(job), Some(encode(record))));
        for chunk in group.chunks(90) {
            self.ledger.commit(chunk.iter().cloned().map(|(key, value)| super::ledger::write(key, value)).collect()).await?;
        }
        self.let_go(&work);
        Ok(())
    }

    /// The page is done: its rows and keys are no longer held.
    fn let_go(&mut self, work: &PageWork) {
        for key in &work.keys {
            if let Some((_, uses)) = self.rows.get_mut(key) {
                *uses -= 1;
                if *uses == 0 {
                    self.rows.remove(key);
                }
            }
        }
        for sighting in &work.page.sightings {
            if let (Verdict::Send(_), Some((_, key))) = (sighting.verdict, &sighting.observable) {
                self.in_flight.remove(key);
            }
        }
    }
}

/// Loads the rows that are not held yet and counts one more use of each.
async fn hold_rows(
    rows: &mut HashMap<ObservableKey, (Option<TargetRow>, usize)>,
    ledger: &Ledger,
    capacity: &Capacity,
    keys: &[ObservableKey],
) -> Result<(), LedgerError> {
    let missing = keys.iter().copied().filter(|key| !rows.contains_key(key));
    let (stored, absent): (Vec<ObservableKey>, Vec<ObservableKey>) = missing.partition(|key| capacity.may_have_row(*key));
    let loaded = ledger.rows().read_many::<TargetRow>(stored.iter().map(|key| target_key(*key)).collect()).await?;
    rows.extend(stored.into_iter().zip(loaded).map(|(key, row)| (key, (row, 0))));
    rows.extend(absent.into_iter().map(|key| (key, (None, 0))));
    for key in keys {
        if let Some((_, uses)) = rows.get_mut(key) {
            *uses += 1;
        }
    }
    Ok(())
}

/// What decisions are made by, at `now`.
pub(crate) fn rules<'r>(job: &'r Job, record: &'r RunRecord, now: Timestamp) -> Rules<'r> {
    Rules {
        job: &job.name,
        run: &record.run,
        action: job.terms.action.name(),
        incremental: record.mode == Mode::Incremental,
        now,
        places: &job.places,
        interval: job.interval,
        resend: record.resend,
        retry_rejected: record.retry_rejected,
    }
}

/// The times of one payload: later than what the target may have seen, to the millisecond that is sent.
pub(crate) fn stamp(now: Timestamp, created: Timestamp, days: u16, row: Option<&TargetRow>) -> Stamp {
    let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let after = row.filter(|row| row.at_target || row.withdrawn_in.is_some()).map_or(Timestamp::UNIX_EPOCH, |row| row.modified);
    let next = after.checked_add(1.millisecond()).unwrap_or(after);
    Stamp { modified: now.max(next).max(created), expires: expiry(now, days) }
}

/// A hundred items refused with the same words, and none accepted in the run: no matter of the items.
fn refused_alike(work: &PageWork, record: &RunRecord) -> Result<(), Stop> {
    if record.tally.outcomes.accepted > 0 || record.accepted_by_worker {
        return Ok(());
    }
    let mut reasons: HashMap<&str, usize> = HashMap::new();
    for sighting in &work.page.sightings {
        if let Some(Answer::Refused { reason, .. }) = &sighting.answer {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match reasons.into_iter().max_by_key(|(_, count)| *count) {
        Some((reason, count)) if count >= REFUSED_ALIKE => Err(Stop::RefusedAlike { count, reason: reason.to_owned() }),
        _ => Ok(()),
    }
}
