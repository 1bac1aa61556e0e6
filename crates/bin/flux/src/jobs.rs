//! Jobs as the listing commands see them: which ones, their fields, their nested instances.

pub(crate) mod headings;
pub(crate) mod instance;
pub(crate) mod query;
pub(crate) mod row;

pub(crate) use query::Query;
pub(crate) use row::JobRow;
