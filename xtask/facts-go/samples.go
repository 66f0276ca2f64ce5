package main

func writeSamples(dir string) {}
