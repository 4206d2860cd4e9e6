//! Signing in, and tokens that end.

use super::*;

#[tokio::test]
async fn an_expired_token_is_renewed_once_and_the_request_sent_again() {
    let scripted = Scripted::new().await;
    let auth = RestAuth { credential: Some("me:pass".into()), ..RestAuth::default() };
    let settings = CatalogSettings { rest: auth, ..scripted.settings() };
    scripted.server.text(
        TOKENS,
        200,
        r#"{"access_token":"old","token_type":"bearer","expires_in":3600}"#,
    );
    let catalog = scripted.connect_with(settings).await;
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, status(401)).reply(COMMIT, scripted.applied());
    scripted.server.text(TOKENS, 200, r#"{"access_token":"new"}"#);
    committed(catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await);

    let asked = scripted.server.asked();
    assert_eq!(scripted.server.lines(), [TOKENS, CONFIG, LOAD, COMMIT, TOKENS, COMMIT]);
    let tokens: Vec<_> = asked.iter().map(|asked| asked.header("authorization")).collect();
    assert_eq!(tokens, ["", "Bearer old", "Bearer old", "Bearer old", "", "Bearer new"]);
    assert_eq!(
        asked[0].body,
        "grant_type=client_credentials&client_id=me&client_secret=pass&scope=catalog"
    );

    // Refused again with the new one: no loop.
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, status(401)).reply(COMMIT, status(401));
    scripted.server.text(TOKENS, 200, r#"{"access_token":"newer"}"#);
    let outcome = catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await.unwrap();
    let CommitOutcome::TurnedAway(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("401"), "{error}");
}

/// Some servers say 403 or 501 of a token that has ended; of one that is new they mean it.
#[tokio::test]
async fn a_refusal_that_may_mean_the_token_is_tried_once_with_a_new_one() {
    for code in [403, 501] {
        let scripted = Scripted::new().await;
        let auth = RestAuth { credential: Some("me:pass".into()), ..RestAuth::default() };
        let settings = CatalogSettings { rest: auth, ..scripted.settings() };
        scripted.server.text(TOKENS, 200, r#"{"access_token":"old","expires_in":"3600"}"#);
        let catalog = scripted.connect_with(settings).await;
        scripted.load(&catalog).await;
        let Catalog::Rest(rest) = &catalog else { panic!("{catalog:?}") };
        rest.age_token().await;
        scripted.server.reply(LOAD, status(code)).text(LOAD, 200, scripted.table());
        scripted.server.text(TOKENS, 200, r#"{"access_token":"new"}"#);
        assert!(catalog.load(&scripted.name).await.unwrap().is_some());
        scripted.server.reply(LOAD, status(code));
        catalog.load(&scripted.name).await.unwrap_err();
        assert_eq!(scripted.server.lines(), [TOKENS, CONFIG, LOAD, LOAD, TOKENS, LOAD, LOAD]);
    }
}

#[tokio::test]
async fn what_is_asked_of_an_identity_provider_is_what_the_settings_say() {
    let scripted = Scripted::new().await;
    let auth = RestAuth {
        credential: Some("me:pass".into()),
        scope: Some("none".into()),
        audience: Some("lake".into()),
        resource: Some("https://lake/".into()),
        ..RestAuth::default()
    };
    let settings = CatalogSettings { rest: auth, ..scripted.settings() };
    scripted.server.text(TOKENS, 200, r#"{"access_token":"t","expires_in":""}"#);
    scripted.connect_with(settings).await;
    assert_eq!(
        scripted.server.asked()[0].body,
        "grant_type=client_credentials&client_id=me&client_secret=pass&audience=lake\
         &resource=https%3A%2F%2Flake%2F"
    );
}

#[tokio::test]
async fn a_request_that_was_turned_away_and_cannot_be_sent_again_had_been_sent() {
    let scripted = Scripted::new().await;
    let auth = RestAuth { credential: Some("me:pass".into()), ..RestAuth::default() };
    let settings = CatalogSettings { rest: auth, ..scripted.settings() };
    scripted.server.text(TOKENS, 200, r#"{"access_token":"old"}"#);
    let catalog = scripted.connect_with(settings).await;
    let loaded = scripted.load(&catalog).await;
    scripted.server.reply(COMMIT, status(401)).reply(TOKENS, status(503));
    let outcome = catalog.commit_append(&loaded, &pending(&loaded, 0, 3, vec![])).await.unwrap();
    let CommitOutcome::TurnedAway(error) = outcome else { panic!("{outcome:?}") };
    assert!(error.is_transient(), "{error}");
    assert_eq!(scripted.files(), 1, "a first copy of the request may have landed");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let scripted = Scripted::new().await;
    let auth = RestAuth {
        credential: Some("me:pass".into()),
        scope: Some("PRINCIPAL_ROLE:ALL".into()),
        oauth2_server_uri: Some(format!("{}/elsewhere", scripted.server.uri).into()),
        ..RestAuth::default()
    };
    let settings = CatalogSettings { rest: auth, ..scripted.settings() };
    // Its life is over before the next request can be made.
    let short = r#"{"access_token":"short","expires_in":0.000001}"#;
    let tokens = "POST /elsewhere";
    scripted.server.text(tokens, 200, short).text(
        tokens,
        200,
        r#"{"access_token":"long","expires_in":3600}"#,
    );
    let catalog = scripted.connect_with(settings).await;
    scripted.load(&catalog).await;
    scripted.load(&catalog).await;
    assert_eq!(scripted.server.lines(), [tokens, CONFIG, tokens, LOAD, LOAD]);
    let asked = scripted.server.asked();
    assert!(asked[0].body.ends_with("&scope=PRINCIPAL_ROLE%3AALL"), "{}", asked[0].body);
    assert_eq!(asked[4].header("authorization"), "Bearer long");
}
