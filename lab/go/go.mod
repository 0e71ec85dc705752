module lab

go 1.27
