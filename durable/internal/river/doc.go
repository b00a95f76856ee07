// Package river is what the engines on SQLite and Postgres have in common: package durable
// on River (github.com/riverqueue/river), whatever the database. It is one source for
// River v0.31.0, the last whose SQLite driver can be had, and v0.51.1.
package river
