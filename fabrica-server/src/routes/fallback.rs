//! What is no route, and what is not a method of one.

use crate::problem::Problem;

/// For paths that are none of ours.
pub(crate) async fn route_not_found() -> Problem {
    Problem::new("request.route_not_found", "there is no route with that path")
}

/// For methods that a route does not have.
pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(
        "request.method_not_allowed",
        "the route does not have that method",
    )
}
