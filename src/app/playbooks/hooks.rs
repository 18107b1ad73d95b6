//! What dispatch asks of the rest: playbooks, proof, lifecycle events, what is encrypted.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{AT_ONCE, LOOKED_AT_EVERY, Playbooks, Source};
use crate::dispatch::{Hooks, Plan, Sealed};
use crate::notifications::client_state::{self, Verdict};
use crate::notifications::item::{Item, Origin};
use crate::notifications::keys::KeyRing;
use crate::notifications::rich::RichError;
use crate::notifications::rich::decrypt::OpenError;
use crate::notifications::rich::tokens::TokenError;
use crate::notifications::wanted::Wanted;
use crate::subscriptions::SubscriptionError;
use crate::subscriptions::lifecycle::Answered;

impl Playbooks {
    /// What dispatch asks of the rest.
    #[must_use]
    pub(in crate::app) fn hooks(&self, keys: &KeyRing) -> Hooks {
        let (plans, plans_now, made_for) = (self.clone(), self.clone(), self.clone());
        let (lifecycle, open) = (self.clone(), self.clone());
        let keys = keys.clone();
        Hooks {
            plans: Arc::new(move || {
                let playbooks = plans.clone();
                Box::pin(async move { playbooks.plans(LOOKED_AT_EVERY).await })
            }),
            plans_now: Arc::new(move || {
                let playbooks = plans_now.clone();
                Box::pin(async move { playbooks.plans(AT_ONCE).await })
            }),
            prove: Arc::new(move |text| {
                let keys = keys.clone();
                Box::pin(async move { prove(&keys, text.as_deref()).await })
            }),
            made_for: Arc::new(move |item| {
                let playbooks = made_for.clone();
                Box::pin(async move { playbooks.made_for(&item).await })
            }),
            lifecycle: Arc::new(move |_, item| {
                let playbooks = lifecycle.clone();
                Box::pin(async move { playbooks.lifecycle(&item).await })
            }),
            open: Arc::new(move |item| {
                let playbooks = open.clone();
                Box::pin(async move { playbooks.open(item).await })
            }),
        }
    }

    async fn plans(&self, fresh: Duration) -> Result<Arc<[Plan]>, String> {
        let asked = self.asked_within(fresh).await?;
        // Without a document nobody can say that an item is nobody's: it waits.
        let none = asked.document.is_empty() && asked.plans.is_empty();
        if none { Err(asked.why_not.clone()) } else { Ok(Arc::clone(&asked.plans)) }
    }

    /// What the subscription of an item was made for, where no playbook wants just that any more.
    async fn made_for(&self, item: &Item) -> Result<Option<Wanted>, String> {
        let Some(group) = item.group.as_deref().filter(|_| item.origin != Origin::Poll) else { return Ok(None) };
        let asked = self.asked().await?;
        let stranger = !group.get(1..).is_some_and(|digits| asked.together.groups.contains(digits));
        let Some(subscribing) = asked.subscribing.as_ref().filter(|_| stranger) else { return Ok(None) };
        match subscribing.reconciler.made_for(&item.subscription, group).await {
            // A row of a newer version will not be read by waiting.
            Err(SubscriptionError::Unreadable { .. }) => Ok(None),
            found => found.map_err(|error| error.to_string()),
        }
    }

    async fn lifecycle(&self, item: &Item) -> Result<(), String> {
        let asked = self.asked().await?;
        let Some(subscribing) = &asked.subscribing else { return Err(asked.why_not.clone()) };
        match subscribing.reconciler.lifecycle(item).await {
            Ok(Answered::Done(_)) => Ok(()),
            Ok(Answered::Later(_)) => Err("nobody knows the subscription yet".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn open(&self, item: Item) -> Result<Value, Sealed> {
        let later = |cause: String| Sealed { cause, transient: true };
        let Source::Read(reading) = &self.0 else { return Err(later("nobody here opens encrypted notifications".to_owned())) };
        let asked = reading.asked(LOOKED_AT_EVERY).await.map_err(later)?;
        let mut keys = reading.keys.current().await.map_err(|error| later(error.to_string()))?;
        let mut opened = reading.try_open(&item, &keys, &asked).await;
        if opened == Err(RichError::Token(TokenError::UnknownKey)) {
            keys = reading.keys.anew(&keys).await.map_err(|error| later(error.to_string()))?;
            opened = reading.try_open(&item, &keys, &asked).await;
        }
        opened.map_err(|error| Sealed {
            cause: error.to_string(),
            // A new key may not be published yet; a certificate may be on its way.
            transient: matches!(error, RichError::Token(TokenError::UnknownKey) | RichError::Open(OpenError::UnknownCertificate)),
        })
    }
}

/// The group that a client state proves.
async fn prove(keys: &KeyRing, text: Option<&str>) -> Result<Option<String>, String> {
    let known =
        keys.keys_at_leisure().await.ok_or("the key of client states cannot be had: see the vault, or CLIENT_STATE_KEY")?;
    let group = |verdict| match verdict {
        Verdict::Good { group, .. } => Some(group),
        Verdict::Wrong => None,
    };
    if let Some(group) = group(client_state::check(&known, text)) {
        return Ok(Some(group));
    }
    match keys.other_than(&known).await {
        Some(other) => Ok(group(client_state::check(&other, text))),
        None => Ok(None),
    }
}
