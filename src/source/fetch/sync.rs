//! What a shard's threads meet at. The test `interleaved` puts its own in this place, which let it
//! decide whose turn it is.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
