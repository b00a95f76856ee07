package postgres

var Enter = enter
