//! The one error of a commit.

use super::TableError;

/// A commit that was certainly not made, because nothing of it left this process.
///
/// It is made where that is known, by name, and by nothing else: an error that is passed on behind
/// the request does not become one by itself.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotSent(TableError);

impl NotSent {
    /// For an `error` before the request, or of a connection that was never there.
    pub(super) fn because(error: TableError) -> Self {
        Self(error)
    }

    /// For a simulated catalog.
    #[cfg(test)]
    pub(crate) fn simulated(error: TableError) -> Self {
        Self(error)
    }

    /// What went wrong.
    pub fn into_error(self) -> TableError {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does not compile if there is a `From<TableError>`: two implementations would then fit.
    #[test]
    fn no_error_becomes_one_by_a_question_mark() {
        trait Fits<Way> {
            const NAME: &str = "not sent";
        }
        struct ByFrom;
        impl<T> Fits<()> for T {}
        impl<T: From<TableError>> Fits<ByFrom> for T {}
        assert_eq!(<NotSent as Fits<_>>::NAME, "not sent");
    }
}
