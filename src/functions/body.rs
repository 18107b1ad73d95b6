//! The body of a request that anybody may send: so long, so slow, and so many of them at once.
//!
//! Apart because what is refused here is refused before anybody knows what it is: each with the code that says why.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::platform::clock::Clock;

/// Microsoft Graph states no limit; nothing that it is known to send comes near.
pub(super) const LONGEST: usize = 16 << 20;
/// From the head of a request to the end of its body.
const SLOWEST: Duration = Duration::from_secs(30);
/// Between two parts of it: who sends nothing for so long does not hold memory for the whole time.
const SILENT: Duration = Duration::from_secs(5);
/// What bodies that are being read or kept may take up together; taken apart, they are some times as large.
const TOGETHER: usize = 32 << 20;
/// Those that say that they are no longer have half of it for themselves: a few large ones, of whomever, leave room for them.
const SMALL: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// The memory that all bodies share.
#[derive(Debug, Clone)]
pub(super) struct Room {
    small: Arc<Semaphore>,
    /// For those that may be large: they are announced as such, or not at all.
    large: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        let half = || Arc::new(Semaphore::new(TOGETHER / 2 / KIB));
        Self { small: half(), large: half() }
    }
}

/// A whole body, with its share of the memory until it is dropped.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLong,
    TooSlow,
    /// The sender went away.
    Broken,
    /// Others take up the memory; this will pass.
    NoRoom,
}

impl Refusal {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "the body is longer than 16 MiB",
            Self::TooSlow => "the body was not there within 30 s, or nothing of it came for 5 s",
            Self::Broken => "the body has not arrived whole",
            Self::NoRoom => "too much is being received at once",
        }
    }
}

impl Room {
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body, clock: &dyn Clock) -> Result<Whole, Refusal> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > LONGEST as u64) {
            return Err(Refusal::TooLong);
        }
        tokio::select! {
            biased;
            read = self.collect(announced, body, clock) => read,
            () = clock.alarm(SLOWEST) => Err(Refusal::TooSlow),
        }
    }

    /// Memory is taken as it comes, not as it is announced.
    async fn collect(&self, announced: Option<u64>, body: Body, clock: &dyn Clock) -> Result<Whole, Refusal> {
        let small = announced.is_some_and(|length| length <= SMALL as u64);
        let (room, longest) = if small { (&self.small, SMALL) } else { (&self.large, LONGEST) };
        let (mut bytes, mut share) = (Vec::new(), None::<OwnedSemaphorePermit>);
        let mut chunks = body.into_data_stream();
        loop {
            let next = tokio::select! {
                biased;
                next = chunks.next() => next,
                () = clock.alarm(SILENT) => return Err(Refusal::TooSlow),
            };
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(|_| Refusal::Broken)?;
            let length = bytes.len() + chunk.len();
            if length > longest {
                return Err(Refusal::TooLong);
            }
            let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let wanted = length.div_ceil(KIB).saturating_sub(held);
            let more = u32::try_from(wanted).ok().and_then(|more| Arc::clone(room).try_acquire_many_owned(more).ok());
            let more = more.ok_or(Refusal::NoRoom)?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Whole { bytes: bytes.into(), _share: share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::SystemClock;

    /// Reads a body of so many bytes that says so, or does not.
    async fn read(room: &Room, length: usize, announced: bool) -> Result<Whole, Refusal> {
        let mut headers = HeaderMap::new();
        if announced {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        room.read(&headers, Body::from(vec![b' '; length]), &SystemClock::new()).await
    }

    #[tokio::test]
    async fn bodies_share_their_memory_and_give_it_back() {
        let room = Room::default();
        let mut held = Vec::new();
        for _ in 0..TOGETHER / 2 / LONGEST {
            held.push(read(&room, LONGEST, true).await.expect("room"));
        }
        assert_eq!(read(&room, 1, false).await.err(), Some(Refusal::NoRoom));
        assert_eq!(read(&room, 0, false).await.expect("nothing takes no room").bytes.len(), 0);
        held.pop();
        assert_eq!(read(&room, LONGEST, false).await.expect("room again").bytes.len(), LONGEST);
        assert_eq!(read(&room, LONGEST + 1, false).await.err(), Some(Refusal::TooLong));
        assert_eq!(read(&room, LONGEST + 1, true).await.err(), Some(Refusal::TooLong));
    }

    #[tokio::test]
    async fn large_bodies_leave_room_for_small_ones() {
        let (room, mut held, small) = (Room::default(), Vec::new(), 1 << 20);
        while let Ok(whole) = read(&room, LONGEST / 4, held.len() % 2 == 0).await {
            held.push(whole);
        }
        assert_eq!(held.len(), 4);
        for _ in 0..16 {
            held.push(read(&room, small, true).await.expect("room for small ones"));
        }
        assert_eq!(read(&room, 1, true).await.err(), Some(Refusal::NoRoom));
        held.drain(..4);
        assert_eq!(read(&room, small + 1, true).await.expect("room for large ones").bytes.len(), small + 1);
    }
}
