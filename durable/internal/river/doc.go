// Package river is what the engines on SQLite and Postgres have in common: package durable
// on River (github.com/riverqueue/river), whatever the database.
package river
