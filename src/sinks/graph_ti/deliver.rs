//! A batch delivered: looked up where something is unsure, updated where there is an object, created where there is none.
//!
//! Nothing is deleted before what takes its place is at the target, but for what lost answers left at a target with few places.

use super::GraphTi;
use super::plan::{self, Plan};
use super::trouble::About;
use crate::indicator::Observable;
use crate::sinks::{Answer, SendError, Sole, There, Upload, Withdrawal, rounds};

impl GraphTi {
    pub(super) async fn deliver(&self, items: &[Upload]) -> Result<Vec<Answer>, SendError> {
        let wanted: Vec<(&Observable, &There)> = items.iter().map(|item| (&item.observable, &item.there)).collect();
        let found = self.look_up(&wanted).await?;
        let plan = |i: usize| {
            let item = &items[i];
            plan::plan(&item.there, &found[i], |entity| entity.can_become(&item.payload, self.config.product))
        };
        let mut answers: Vec<Option<Answer>> = vec![None; items.len()];
        for round in rounds(items, |item| item.external_id.clone()) {
            let parts: Vec<(&Upload, Plan)> = round.iter().map(|i| (&items[*i], plan(*i))).collect();
            match self.deliver_round(&parts).await {
                Ok(said) => round.into_iter().zip(said).for_each(|(i, answer)| answers[i] = Some(answer)),
                Err(error) if answers.iter().all(Option::is_none) => return Err(error),
                // The ids of objects that were made are in the answers: those are not given up.
                Err(error) => {
                    let rest = || Answer::Unanswered { reason: error.message.clone() };
                    return Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(rest)).collect());
                }
            }
        }
        Ok(answers.into_iter().map(answered).collect())
    }

    /// Items whose external ids differ.
    ///
    /// Updates go first, and an error after them fails all: they may be repeated, while an object that was made must be answered.
    async fn deliver_round(&self, parts: &[(&Upload, Plan)]) -> Result<Vec<Answer>, SendError> {
        let mut answers: Vec<Option<Answer>> = vec![None; parts.len()];
        let kept = parts.iter().enumerate().filter_map(|(i, (item, plan))| Some((i, (*item, plan.keep.as_deref()?))));
        let (places, updates): (Vec<usize>, Vec<(&Upload, &str)>) = kept.unzip();
        for (i, said) in places.into_iter().zip(self.update(&updates).await?) {
            answers[i] = said;
        }
        if self.config.product.capacity().is_some() {
            self.make_room(parts, &mut answers).await;
        }
        let places: Vec<usize> = (0..parts.len()).filter(|i| answers[*i].is_none()).collect();
        let fresh: Vec<&Upload> = places.iter().map(|i| parts[*i].0).collect();
        for (i, said) in places.into_iter().zip(self.submit(&fresh).await?) {
            answers[i] = Some(said);
        }
        let mut answers: Vec<Answer> = answers.into_iter().map(answered).collect();
        self.clear(parts, &mut answers).await;
        Ok(answers)
    }

    /// Objects that earlier sends left and no update makes right: they go before another is made, so that no item has more places
    /// than the caller knows of. Only the known object of an item that is replaced stays until the new one is there.
    async fn make_room(&self, parts: &[(&Upload, Plan)], answers: &mut [Option<Answer>]) {
        for (i, (item, plan)) in parts.iter().enumerate() {
            if answers[i].is_some() || plan.keep.is_some() {
                continue;
            }
            let stays = |id: &&str| item.there.replaced && item.there.id.as_deref() == Some(*id);
            let ids: Vec<&str> = plan.extra.iter().map(String::as_str).filter(|id| !stays(id)).collect();
            if ids.is_empty() {
                continue;
            }
            let said = match self.delete(&ids).await {
                Ok(said) => said,
                Err(error) => vec![Err(error)],
            };
            if let Some(reason) = said.into_iter().find_map(why_still_there) {
                answers[i] = Some(Answer::Unanswered { reason: format!("not sent, an object of it is in the way: {reason}") });
            }
        }
    }

    /// Deletes the other objects of what is at the target now.
    async fn clear(&self, parts: &[(&Upload, Plan)], answers: &mut [Answer]) {
        let accepted = parts.iter().enumerate().filter(|(i, _)| matches!(answers[*i], Answer::Accepted { .. }));
        let extra = accepted.flat_map(|(i, (_, plan))| plan.extra.iter().map(move |id| (i, id.as_str())));
        let (places, ids): (Vec<usize>, Vec<&str>) = extra.unzip();
        let said = match self.delete(&ids).await {
            Ok(said) => said,
            Err(error) => ids.iter().map(|_| Err(error.clone())).collect(),
        };
        for (i, said) in places.into_iter().zip(said) {
            if let Some(reason) = why_still_there(said) {
                // A later run looks up what there is.
                answers[i] = Answer::Unanswered { reason: format!("sent, but another object of it stays: {reason}") };
            }
        }
    }

    pub(super) async fn take_back(&self, items: &[Withdrawal]) -> Result<Vec<Answer>, SendError> {
        let wanted: Vec<(&Observable, &There)> = items.iter().map(|item| (&item.observable, &item.there)).collect();
        let found = self.look_up(&wanted).await?;
        let own: Vec<Vec<String>> = items.iter().zip(&found).map(|(item, found)| plan::all(&item.there, found)).collect();
        let ids: Vec<&str> = own.iter().flatten().map(String::as_str).collect();
        let mut said = self.delete(&ids).await?.into_iter();
        Ok(own.iter().map(|ids| withdrawn(said.by_ref().take(ids.len()).collect())).collect())
    }

    /// Looks up what lost answers may have left, and deletes all of it but one object of each item.
    pub(super) async fn thin_out(&self, items: &[(Observable, There)]) -> Result<Vec<Sole>, SendError> {
        let wanted: Vec<(&Observable, &There)> = items.iter().map(|(observable, there)| (observable, there)).collect();
        let found = self.look_up(&wanted).await?;
        let plans: Vec<Plan> = items.iter().zip(&found).map(|((_, there), found)| plan::sole(there, found)).collect();
        let ids: Vec<&str> = plans.iter().flat_map(|plan| &plan.extra).map(String::as_str).collect();
        let mut said = self.delete(&ids).await?.into_iter();
        let sole = |((_, there), plan): (&(Observable, There), &Plan)| {
            let stays = said.by_ref().take(plan.extra.len()).filter_map(why_still_there).count();
            match &plan.keep {
                _ if stays > 0 => Sole::Unclear,
                Some(id) if there.id.as_ref() == Some(id) => Sole::Known,
                _ => Sole::AtMostOne,
            }
        };
        Ok(items.iter().zip(&plans).map(sole).collect())
    }
}

/// An item is withdrawn if all of its objects are gone.
fn withdrawn(said: Vec<Result<About, SendError>>) -> Answer {
    let mut answer = Answer::Accepted { remote_id: None };
    for said in said {
        answer = match said {
            Ok(About::Done | About::NotThere) => answer,
            Ok(About::Refused { reason, correlation }) => Answer::Refused { reason, correlation },
            Err(error) => return Answer::Unanswered { reason: error.message },
        };
    }
    answer
}

fn why_still_there(said: Result<About, SendError>) -> Option<String> {
    match said {
        Ok(About::Done | About::NotThere) => None,
        Ok(About::Refused { reason, .. }) => Some(reason),
        Err(error) => Some(error.message),
    }
}

/// Every item has an answer after the last step: without one, it was not asked for.
fn answered(answer: Option<Answer>) -> Answer {
    answer.unwrap_or_else(|| Answer::Unanswered { reason: "Microsoft Graph was not asked".to_owned() })
}
