//! Waiting without sleeping: a condition is looked at again and again until it holds or its time is up.
//!
//! What always holds: a wait that fails says what was waited for, for how long, and what was seen last.

use std::time::{Duration, Instant};

/// Between two looks: short against every timing that tests look at.
const EVERY: Duration = Duration::from_millis(15);

/// The first `Ok` of `look`.
///
/// # Panics
/// If there is none within `within`: with the last `Err`.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        let seen = match look().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(began.elapsed() < within, "waited {within:?} for {what}; last seen: {seen}");
        tokio::time::sleep(EVERY).await;
    }
}

/// As [`until`], for what is asked without awaiting.
///
/// # Panics
/// As [`until`].
pub async fn until_now<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    until(what, within, async || look()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_looks_again_until_it_holds() {
        let mut looks = 0;
        let third = until_now("the third look", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
        });
        assert_eq!(third.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "for a miracle; last seen: nothing")]
    async fn a_wait_in_vain_says_what_was_seen() {
        until_now::<()>("a miracle", Duration::from_millis(40), || Err("nothing".to_owned())).await;
    }
}
