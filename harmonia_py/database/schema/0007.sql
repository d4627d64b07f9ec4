-- Tokens that identities of issuers were exchanged for: whose they are, and what several rules together allow, as JSON. They
-- are many and last for hours, so those that have expired are found by that time, and removed; a holder has a bounded number.
alter table tokens add column holder text;
alter table tokens add column grants text;
create index tokens_of_holders on tokens (expires_s) where holder is not null;
create index tokens_by_holder on tokens (holder, expires_s) where holder is not null
