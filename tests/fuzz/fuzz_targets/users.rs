//! A users file is read, or every bad line is named; edits keep what they do not mean.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::auth::edit;
use pillarbox::auth::users::Users;

fuzz_target!(|text: &str| {
    match Users::parse(text, 1 << 26) {
        Ok(users) => {
            for login in users.logins() {
                assert!(!login.contains('/') && !login.starts_with('.') && !login.is_empty());
            }
        }
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| error.line > 0)),
    }
    let (same, changed) = edit::remove(text, "nobody-is-called-so", None);
    assert!(changed > 0 || same == text);
});
