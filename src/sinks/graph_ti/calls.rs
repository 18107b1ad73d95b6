//! The calls: each says of every item that it was given what became of it, or fails as a whole.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use reqwest::Method;

use super::trouble::{self, About};
use super::wire::{self, Asked, Entity, Line};
use super::{BATCH, GraphTi};
use crate::indicator::Observable;
use crate::platform::clock::BoxFuture;
use crate::platform::http::{Reply, Request, request_id};
use crate::sinks::{Answer, SendError, SendErrorKind, TargetProduct, There, Upload};

/// External ids in one lookup: an address of more than some 2,000 characters is refused by many.
const LOOKED_UP_AT_ONCE: usize = 15;
/// Pages of one lookup; there is one object for each id, or a few.
const PAGES: usize = 50;
/// Calls about single objects under way at once, within one call of ours.
const SINGLE_CALLS: usize = 8;

const SUBMIT: &str = "submit indicators";
const UPDATE: &str = "update indicators";
const DELETE: &str = "delete indicators";
const LIST: &str = "list indicators";

impl GraphTi {
    /// Creates one object for each item; their external ids differ.
    pub(super) async fn submit(&self, items: &[&Upload]) -> Result<Vec<Answer>, SendError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let body = wire::collection(items.iter().map(|item| item.payload.as_slice()));
        // Not to be repeated blindly: what happens to a second object with the same external id is not documented.
        let request = Request { idempotent: false, ..post(SUBMIT, "submitTiIndicators", body) };
        let reply = self.call(request).await?;
        if !is_success(&reply) {
            return Err(self.doubted(trouble::refused(SUBMIT, &reply)).await);
        }
        let asked: Vec<Asked<'_>> = items.iter().map(|item| Asked { external_id: &item.external_id, id: None }).collect();
        let lines = wire::lines(&trouble::entries(SUBMIT, &reply)?, &asked);
        let full = |reason: &str| self.config.product == TargetProduct::Defender && crate::sinks::says_full(reason);
        let answered = |line| match answer(line, &reply) {
            Answer::Refused { reason, .. } if full(&reason) => Answer::Full { reason },
            answer => answer,
        };
        Ok(lines.into_iter().map(answered).collect())
    }

    /// Changes what an update can change of the object with each id; none where there is no such object.
    pub(super) async fn update(&self, items: &[(&Upload, &str)]) -> Result<Vec<Option<Answer>>, SendError> {
        match self.config.product {
            _ if items.is_empty() => Ok(Vec::new()),
            TargetProduct::Sentinel => self.update_together(items).await,
            // Bulk updates are not supported for this product.
            TargetProduct::Defender => self.update_singly(items).await,
        }
    }

    async fn update_together(&self, items: &[(&Upload, &str)]) -> Result<Vec<Option<Answer>>, SendError> {
        let bodies: Vec<Vec<u8>> =
            items.iter().map(|(item, id)| wire::update(Some(id), &item.payload, self.config.product)).collect();
        let body = wire::collection(bodies.iter().map(Vec::as_slice));
        let reply = self.call(post(UPDATE, "updateTiIndicators", body)).await?;
        match reply.status {
            200..=299 => {}
            // It does not say which one is not there.
            404 => return self.update_singly(items).await,
            _ => return Err(self.doubted(trouble::refused(UPDATE, &reply)).await),
        }
        let asked: Vec<Asked<'_>> =
            items.iter().map(|(item, id)| Asked { external_id: &item.external_id, id: Some(id) }).collect();
        let lines = wire::lines(&trouble::entries(UPDATE, &reply)?, &asked);
        let mut answers: Vec<Option<Answer>> = lines.into_iter().map(|line| answered(line, &reply)).collect();
        let refused = |i: &usize| matches!(answers[*i], Some(Answer::Refused { .. }));
        let places: Vec<usize> = (0..items.len()).filter(refused).collect();
        let said = self.read_each(places.iter().map(|i| items[*i].1)).await?;
        for (i, said) in places.into_iter().zip(said) {
            match said {
                Ok(About::NotThere) => answers[i] = None,
                Ok(_) => {}
                Err(error) => answers[i] = Some(Answer::Unanswered { reason: error.message }),
            }
        }
        Ok(answers)
    }

    /// Whether there are objects with these ids: no page says how a bulk answer tells that there is none.
    async fn read_each(&self, ids: impl Iterator<Item = &str>) -> Result<Vec<Result<About, SendError>>, SendError> {
        let requests: Vec<Request> = ids.map(|id| get(wire::object_path(id))).collect();
        if requests.is_empty() { Ok(Vec::new()) } else { self.about_each(LIST, requests).await }
    }

    async fn update_singly(&self, items: &[(&Upload, &str)]) -> Result<Vec<Option<Answer>>, SendError> {
        let request = |(item, id): &(&Upload, &str)| Request {
            operation: UPDATE,
            method: Method::PATCH,
            path: wire::object_path(id),
            body: Some(wire::update(None, &item.payload, self.config.product).into()),
            idempotent: true,
        };
        let said = self.about_each(UPDATE, items.iter().map(request).collect()).await?;
        let answered = |(said, (_, id)): (Result<About, SendError>, &(&Upload, &str))| match said {
            Ok(About::Done) => Some(Answer::Accepted { remote_id: Some((*id).to_owned()) }),
            Ok(About::NotThere) => None,
            Ok(About::Refused { reason, correlation }) => Some(Answer::Refused { reason, correlation }),
            Err(error) => Some(Answer::Unanswered { reason: error.message }),
        };
        Ok(said.into_iter().zip(items).map(answered).collect())
    }

    /// Deletes the objects with these ids; one answer per id, in their order.
    pub(super) async fn delete(&self, ids: &[&str]) -> Result<Vec<Result<About, SendError>>, SendError> {
        if ids.is_empty() || (self.config.product == TargetProduct::Sentinel && self.delete_together(ids).await?) {
            return Ok(ids.iter().map(|_| Ok(About::Done)).collect());
        }
        let request = |id: &&str| Request {
            operation: DELETE,
            method: Method::DELETE,
            path: wire::object_path(id),
            body: None,
            idempotent: true,
        };
        self.about_each(DELETE, ids.iter().map(request).collect()).await
    }

    /// True if all are deleted; else it is not known which ones, because results do not name their objects reliably.
    async fn delete_together(&self, ids: &[&str]) -> Result<bool, SendError> {
        for ids in ids.chunks(BATCH) {
            let reply = self.call(post(DELETE, "deleteTiIndicators", wire::ids(ids))).await?;
            match reply.status {
                200..=299 if wire::all_deleted(&reply.body, ids.len()) => {}
                200..=299 | 404 | 410 => return Ok(false),
                _ => match trouble::refused(DELETE, &reply) {
                    SendError { kind: SendErrorKind::Refused, .. } => return Ok(false),
                    error => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// For each item, the objects of its observable under the external ids of which it is unsure.
    pub(super) async fn look_up(&self, items: &[(&Observable, &There)]) -> Result<Vec<Vec<Entity>>, SendError> {
        let names: BTreeSet<&str> = items.iter().flat_map(|(_, there)| there.unsure.iter().map(String::as_str)).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut found = Vec::new();
        for names in names.chunks(LOOKED_UP_AT_ONCE) {
            found.extend(self.list(wire::lookup_path(names)).await?);
        }
        let of = |(observable, there): &(&Observable, &There)| {
            let own = |entity: &&Entity| {
                there.unsure.contains(&entity.external_id) && entity.stands_for(observable, self.config.product)
            };
            found.iter().filter(own).cloned().collect()
        };
        Ok(items.iter().map(of).collect())
    }

    async fn list(&self, path: String) -> Result<Vec<Entity>, SendError> {
        let (mut found, mut path) = (Vec::new(), path);
        for _ in 0..PAGES {
            let reply = self.call(get(path)).await?;
            if !is_success(&reply) {
                let error = self.doubted(trouble::refused(LIST, &reply)).await;
                // Not the items' fault: nothing of them was sent yet.
                let kind = if error.kind == SendErrorKind::Refused { SendErrorKind::TooMuch } else { error.kind };
                return Err(SendError { kind, ..error });
            }
            let (entities, next) = wire::page(&reply.body).ok_or_else(|| trouble::gone(LIST, &reply))?;
            found.extend(entities);
            let Some(link) = next else { return Ok(found) };
            path = wire::next_path(&self.config.url, &link).ok_or_else(|| trouble::astray(LIST))?;
        }
        Err(trouble::astray(LIST))
    }

    /// Asks for a list of one, and says whether it is empty: it can be refused for no other reason than that there is none.
    pub(super) async fn read_collection(&self) -> Result<bool, SendError> {
        let reply = self.call(get(format!("{}?$top=1", wire::COLLECTION))).await?;
        if is_success(&reply) {
            let (entities, next) = wire::page(&reply.body).ok_or_else(|| trouble::gone(LIST, &reply))?;
            return Ok(entities.is_empty() && next.is_none());
        }
        match trouble::refused(LIST, &reply) {
            _ if matches!(reply.status, 404 | 410) => Err(trouble::gone(LIST, &reply)),
            SendError { kind: SendErrorKind::Refused, .. } => Err(trouble::gone(LIST, &reply)),
            error => Err(error),
        }
    }

    /// What is said of a batch is about its items only while the API is there: Microsoft Graph answers 400 or `UnknownError`
    /// also for what it has removed.
    async fn doubted(&self, error: SendError) -> SendError {
        if !matches!(error.kind, SendErrorKind::Refused | SendErrorKind::TooMuch) {
            return error;
        }
        self.read_collection().await.err().unwrap_or(error)
    }

    /// One call for each object. Fails where none was answered, or what was said is not about the objects.
    async fn about_each(
        &self,
        operation: &'static str,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<About, SendError>>, SendError> {
        let calls: Vec<BoxFuture<'_, Result<About, SendError>>> = requests
            .into_iter()
            .map(|request| -> BoxFuture<'_, Result<About, SendError>> {
                Box::pin(async move { trouble::about(operation, &self.call(request).await?) })
            })
            .collect();
        let said: Vec<Result<About, SendError>> = stream::iter(calls).buffered(SINGLE_CALLS).collect().await;
        let answered = said.iter().any(Result::is_ok);
        let systemic = |error: &&SendError| error.kind == SendErrorKind::Systemic || !answered;
        if let Some(error) = said.iter().filter_map(|said| said.as_ref().err()).find(systemic) {
            return Err(error.clone());
        }
        // An API that is gone knows no object either.
        if !said.iter().any(|said| matches!(said, Ok(About::Done))) {
            self.read_collection().await?;
        }
        Ok(said)
    }

    async fn call(&self, request: Request) -> Result<Reply, SendError> {
        self.http.send(request).await.map_err(trouble::unanswered)
    }
}

fn post(operation: &'static str, action: &str, body: Vec<u8>) -> Request {
    Request {
        operation,
        method: Method::POST,
        path: format!("{}/{action}", wire::COLLECTION),
        body: Some(body.into()),
        idempotent: true,
    }
}

fn get(path: String) -> Request {
    Request { operation: LIST, method: Method::GET, path, body: None, idempotent: true }
}

fn is_success(reply: &Reply) -> bool {
    (200..300).contains(&reply.status)
}

/// None where there is no such object.
fn answered(line: Line, reply: &Reply) -> Option<Answer> {
    match line {
        Line::Refused { not_there: true, .. } => None,
        line => Some(answer(line, reply)),
    }
}

fn answer(line: Line, reply: &Reply) -> Answer {
    match line {
        Line::Accepted(id) => Answer::Accepted { remote_id: Some(id) },
        Line::Refused { reason, correlation, .. } => {
            Answer::Refused { reason, correlation: correlation.or_else(|| request_id(&reply.headers)) }
        }
        Line::Open(reason) => Answer::Unanswered { reason: reason.to_owned() },
    }
}
