//! What the structure of the workspace must be, and the reference pages made from the code.
//!
//! The tests of this crate hold the layers (design: folders are laws), the size of files, and the
//! golden pages in `docs/reference`. `BLESS=1 cargo nextest run -p flux-arch` writes the pages anew.

pub mod layers;
pub mod reference;
pub mod workspace;
