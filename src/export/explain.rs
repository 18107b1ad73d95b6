//! Why one value is, or is not, at the target.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use super::flow::stamp;
use super::ledger::LedgerError;
use super::reader::sightings;
use super::rows::{Claim, JobState, Rejection, TargetRow, claim_key, job_key, rejection_key, target_key};
use super::run::Exporter;
use super::{Job, Rank};
use crate::indicator::{Confidence, Indicator, Kind, Observable, ThreatAssessScore, ThreatRating, Weight};
use crate::threatconnect::{self, FILTERS, Filter, Item};

/// What is known of one value, for one job.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub job: String,
    pub destination: String,
    /// One sentence.
    pub verdict: String,
    /// Each copy in ThreatConnect, whatever the filters.
    pub indicators: Vec<ExplainedIndicator>,
    pub targets: Vec<ExplainedTarget>,
}

/// One copy of the value in ThreatConnect.
#[derive(Debug, Serialize)]
pub struct ExplainedIndicator {
    pub id: u64,
    pub owner: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub active: bool,
    pub last_modified: Timestamp,
    pub threat_assess_score: Option<u16>,
    pub threat_rating: Option<String>,
    #[serde(skip)]
    rating: Option<ThreatRating>,
    pub confidence: Option<u8>,
    /// The job's whole query selects it.
    pub selected: bool,
    /// Setting and whether it lets this one pass.
    pub filters: BTreeMap<String, bool>,
    /// Why this job does not send it, if it is not for the filters.
    pub skipped: Option<String>,
    /// As it would be sent now.
    pub payload: Option<serde_json::Value>,
}

/// What is stored of one observable.
#[derive(Debug, Serialize)]
pub struct ExplainedTarget {
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
    pub external_id: String,
    /// The target's own id, if it gives one.
    pub remote_id: Option<String>,
    pub at_target: bool,
    pub withdrawn: bool,
    pub winner: Option<String>,
    /// Job and id, best rank first.
    pub claims: Vec<String>,
    pub last_sent: Option<Timestamp>,
    pub expires: Option<Timestamp>,
    pub rejection: Option<Rejection>,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(transparent)]
    Source(#[from] threatconnect::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Exporter {
    /// What is known of `value` for `job`.
    ///
    /// # Errors
    /// ThreatConnect or the store cannot be read.
    pub async fn explain(&self, job: &Job, value: &str) -> Result<Explanation, ExplainError> {
        let observables: Vec<Observable> = Kind::ALL.iter().filter_map(|kind| Observable::parse(*kind, value).ok()).collect();
        let mut targets = Vec::new();
        let mut ids = Vec::new();
        for observable in &observables {
            if let Some(row) = self.rows(job).read::<TargetRow>(&target_key(job.sink.key(observable))).await? {
                ids.extend(row.claims.iter().filter(|claim| claim.job == job.name).map(|claim| claim.id));
                targets.push(self.explain_target(job, observable, &row).await?);
            }
        }
        // ThreatConnect may write the value otherwise than we do: what claims the row is asked for by id as well.
        let mut items: BTreeMap<u64, Item> = BTreeMap::new();
        for spelling in spellings(value, &observables) {
            items.extend(job.client.by_summary(&spelling).await?.into_iter().map(|item| (item.id(), item)));
        }
        ids.retain(|id| !items.contains_key(id));
        let anyhow = Filter { tql: Some("(indicatorActive = true or indicatorActive = false)".to_owned()), ..Filter::default() };
        items.extend(job.client.by_ids(&anyhow, None, &ids).await?.into_iter().map(|item| (item.id(), item)));
        let mut indicators = Vec::new();
        for item in items.into_values() {
            if let Item::Indicator(indicator) = item {
                indicators.push(self.explain_indicator(job, &indicator, &observables).await?);
            }
        }
        let state: JobState = self.rows(job).read(&job_key(&job.name)).await?.unwrap_or_default();
        let crowded = crowded(&indicators, state.lowest.map(|lowest| lowest.weight), job.sink.limits().capacity);
        let verdict = verdict(&indicators, &targets, crowded);
        Ok(Explanation { job: job.name.clone(), destination: job.sink.destination().shown.clone(), verdict, indicators, targets })
    }

    async fn explain_indicator(
        &self,
        job: &Job,
        indicator: &Indicator,
        asked: &[Observable],
    ) -> Result<ExplainedIndicator, ExplainError> {
        let ids = [indicator.id];
        let selected = !job.client.by_ids(&job.filter, None, &ids).await?.is_empty();
        let mut filters = BTreeMap::new();
        let clauses: Vec<(&str, String)> = match &job.filter.tql {
            Some(own) => vec![("TQL", own.clone())],
            None => FILTERS.iter().filter_map(|row| Some((row.key, (row.clause)(&job.filter)?))).collect(),
        };
        for (key, clause) in clauses {
            let tql =
                if key == "TQL" { clause } else { format!("{clause} and (indicatorActive = true or indicatorActive = false)") };
            let alone = Filter { tql: Some(tql), ..Filter::default() };
            filters.insert(key.to_owned(), !job.client.by_ids(&alone, None, &ids).await?.is_empty());
        }
        let now = self.now();
        let mut all = Vec::new();
        sightings(indicator, job.sink.as_ref(), &job.terms, now, &mut all);
        let mine = all.into_iter().find(|s| match &s.observable {
            Some((observable, _)) => asked.contains(observable),
            None => true,
        });
        let (skipped, payload) = match mine.as_ref().map(|sighting| &sighting.made) {
            None => (Some("its type gives no observable that can be sent".to_owned()), None),
            Some(Err(skip)) => (Some(skip.reason().to_owned()), None),
            Some(Ok(draft)) => {
                let bytes = job.sink.payload(draft, stamp(now, draft.created, draft.expiration_days, None));
                (None, serde_json::from_slice(&bytes).ok())
            }
        };
        Ok(ExplainedIndicator {
            id: indicator.id,
            owner: indicator.owner.clone(),
            type_name: indicator.type_name.clone(),
            active: indicator.active,
            last_modified: indicator.last_modified,
            threat_assess_score: indicator.score.map(crate::indicator::ThreatAssessScore::value),
            threat_rating: indicator.rating.map(|rating| rating.to_string()),
            rating: indicator.rating,
            confidence: indicator.confidence.map(crate::indicator::Confidence::value),
            selected,
            filters,
            skipped,
            payload,
        })
    }

    async fn explain_target(&self, job: &Job, observable: &Observable, row: &TargetRow) -> Result<ExplainedTarget, LedgerError> {
        let (rows, key) = (self.rows(job), job.sink.key(observable));
        let mut claims: Vec<(Rank, String)> = Vec::new();
        let mut rejection = None;
        for claim in &row.claims {
            let stored: Option<Claim> = rows.read(&claim_key(&claim.job, claim.id, key)).await?;
            let state = match &stored {
                Some(claim) if claim.refused.is_some() => ", refused by the target",
                Some(claim) if claim.gone_in.is_some() => ", gone from ThreatConnect, waits for its withdrawal",
                _ => "",
            };
            let rank = super::rank::rank(claim, row.winner.as_ref(), &job.places);
            claims.push((rank, format!("job `{}`, indicator {}{state}", claim.job, claim.id)));
            if let Some(found) = rows.read::<Rejection>(&rejection_key(&claim.job, claim.id, key)).await? {
                rejection.get_or_insert(found);
            }
        }
        claims.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(ExplainedTarget {
            kind: row.kind.report_name().to_owned(),
            value: row.value.clone(),
            external_id: row.external_id.clone(),
            remote_id: row.remote_id.clone(),
            at_target: row.at_target,
            withdrawn: row.withdrawn_in.is_some(),
            winner: row.winner.as_ref().map(|holder| format!("job `{}`, indicator {}", holder.0, holder.1)),
            claims: claims.into_iter().map(|(_, text)| text).collect(),
            last_sent: (row.modified > Timestamp::UNIX_EPOCH).then_some(row.modified),
            expires: row.expires.and_then(|at| Timestamp::from_second(at).ok()),
            rejection,
        })
    }
}

/// The value as it was asked for, in normal form, and IPv6 with all segments, short and long.
fn spellings(value: &str, observables: &[Observable]) -> Vec<String> {
    let mut all = vec![value.to_owned()];
    for observable in observables {
        all.push(observable.value().to_owned());
        if let Some(IpAddr::V6(address)) = observable.range().map(|range| range.addr()) {
            let range = observable.value().split_once('/').map(|(_, bits)| format!("/{bits}")).unwrap_or_default();
            all.push(format!("{}{range}", address.segments().map(|segment| format!("{segment:x}")).join(":")));
            all.push(format!("{}{range}", address.segments().map(|segment| format!("{segment:04x}")).join(":")));
        }
    }
    let mut seen = BTreeSet::new();
    all.retain(|spelling| seen.insert(spelling.to_lowercase()));
    all
}

/// Of a target that was full when the last run ended: whether everything that could be sent ranks below what is there.
fn crowded(indicators: &[ExplainedIndicator], lowest: Option<Weight>, capacity: Option<u64>) -> Option<u64> {
    let lowest = lowest?;
    let rank = |indicator: &ExplainedIndicator| (indicator.threat_assess_score, indicator.rating, indicator.confidence);
    let floor = (lowest.score.map(ThreatAssessScore::value), lowest.rating, lowest.confidence.map(Confidence::value));
    let best = indicators.iter().filter(|indicator| indicator.selected && indicator.skipped.is_none()).map(rank).max()?;
    capacity.filter(|_| best <= floor)
}

fn verdict(indicators: &[ExplainedIndicator], targets: &[ExplainedTarget], crowded: Option<u64>) -> String {
    let there = targets.iter().any(|target| target.at_target);
    if let Some(rejection) = targets.iter().find_map(|target| target.rejection.as_ref()).filter(|_| !there) {
        return format!("not at the target: it was refused ({})", rejection.reason);
    }
    let wanted = indicators.iter().find(|indicator| indicator.selected && indicator.skipped.is_none());
    match (there, wanted) {
        (true, Some(_)) => "at the target, as it should be".to_owned(),
        (true, None) => "still at the target though no indicator calls for it any more; the next complete full run withdraws it, or says why not".to_owned(),
        (false, Some(_)) => match crowded {
            Some(capacity) => format!(
                "not sent: no place is left of the {capacity} that the target has for all applications, the reserve included; those there rank higher or as high"
            ),
            None => "not at the target yet; the next run sends it".to_owned(),
        },
        (false, None) => match indicators {
            [] => "not in ThreatConnect, as far as the API user sees".to_owned(),
            all => match all.iter().find(|indicator| indicator.selected).and_then(|indicator| indicator.skipped.clone()) {
                Some(reason) => format!("not sent: {reason}"),
                None if all.iter().all(|indicator| !indicator.active) => "not sent: it is inactive in ThreatConnect".to_owned(),
                None => "not sent: the filters do not let it pass".to_owned(),
            },
        },
    }
}
