//! What a predecessor left: intents without an answer. What they name may or may not be at the target.

use super::ledger::{Group, Ledger, LedgerError, Packer};
use super::rank::Places;
use super::rows::{Claim, Intent, IntentItem, RowClaim, TargetRow, claim_key, encode, mark_key, target_key, tombstone_key};
use crate::indicator::{ObservableKey, Weight};

/// Intents read at once.
const AT_ONCE: usize = 20;

/// Below every weight that an indicator can have.
const LOWEST: Weight = Weight { score: None, rating: None, confidence: None, last_modified: i64::MIN };

/// Turns every leftover intent into a claim, so that what it names is sent again or withdrawn. Returns the items swept.
pub(crate) async fn sweep(ledger: &mut Ledger, places: &Places) -> Result<u64, LedgerError> {
    let mut swept = 0;
    loop {
        let intents: Vec<(String, Intent)> = ledger.rows().scan("i.", "i/", AT_ONCE).await?;
        if intents.is_empty() {
            return Ok(swept);
        }
        let mut packer = Packer::new(ledger);
        for (key, intent) in intents {
            for item in &intent.items {
                swept += 1;
                let group = sweep_item(&packer, item, intent.modified, places).await?;
                packer.add(group).await?;
            }
            packer.add(vec![(key, None)]).await?;
        }
        packer.flush().await?;
    }
}

async fn sweep_item(
    packer: &Packer<'_>,
    item: &IntentItem,
    modified: jiff::Timestamp,
    places: &Places,
) -> Result<Group, LedgerError> {
    let Some(key) = ObservableKey::parse(&item.key) else { return Ok(Group::new()) };
    let mut group = Group::new();
    let stored: Option<TargetRow> = packer.read(&target_key(key)).await?;
    if item.withdrawal && stored.as_ref().is_none_or(|row| row.withdrawn_in.is_some()) {
        return Ok(group); // its answer was committed; others of its batch were not
    }
    let holds = |row: &TargetRow| row.is_held_by(&item.job, item.id) && row.hash.is_some() && row.external_id == item.external_id;
    if !item.withdrawal && stored.as_ref().is_some_and(|row| holds(row) && row.modified >= modified) {
        return Ok(group); // so was this one's
    }
    let mut row = stored.unwrap_or_else(|| item.blank_row());
    if let Some(holder) = row.winner.take() {
        clear_claim(packer, &mut group, &holder.0, holder.1, key).await?;
    }
    row.forget();
    row.expires = None;
    row.modified = row.modified.max(modified);
    if item.withdrawal {
        row.at_target = true;
    } else {
        row.may_be_there_as(&item.external_id, item.beside);
        if row.withdrawn_in.take().is_some() {
            group.push((tombstone_key(key), None));
        }
        let claim_row = claim_key(&item.job, item.id, key);
        let claim = match packer.read::<Claim>(&claim_row).await? {
            Some(claim) => Claim { hash: None, won: false, sent_in: None, ..claim },
            None => Claim::new(&item.owner, LOWEST),
        };
        row.put_claim(
            RowClaim { job: item.job.clone(), id: item.id, weight: claim.weight, refused: claim.refused.is_some() },
            places,
        );
        group.retain(|(known, _)| *known != claim_row);
        group.push((claim_row, Some(encode(&claim))));
    }
    group.push((target_key(key), Some(encode(&row))));
    group.push((mark_key(key), Some(b"{}".to_vec())));
    Ok(group)
}

async fn clear_claim(packer: &Packer<'_>, group: &mut Group, job: &str, id: u64, key: ObservableKey) -> Result<(), LedgerError> {
    let row = claim_key(job, id, key);
    if let Some(claim) = packer.read::<Claim>(&row).await? {
        group.push((row, Some(encode(&Claim { hash: None, won: false, sent_in: None, ..claim }))));
    }
    Ok(())
}
