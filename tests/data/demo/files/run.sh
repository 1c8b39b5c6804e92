#!/bin/sh
echo "demo: $GREETING"
