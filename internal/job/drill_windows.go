package job

const listOpenFlags = 0
