//! What is to be done about a notification.

pub mod action;
pub mod address;
