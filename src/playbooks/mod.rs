//! x
mod cost;
pub mod expression;
mod near;
