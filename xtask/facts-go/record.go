package main

func record(dir string) {}
