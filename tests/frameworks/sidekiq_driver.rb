# Sidekiq: one server process with two queues, single pushes, bulk pushes, scheduled jobs.
require_relative 'sidekiq_jobs'
require 'sidekiq/api'

jobs = Integer(ENV.fetch('JOBS'))
server = spawn('sidekiq', '-r', File.join(__dir__, 'sidekiq_jobs.rb'), '-c', '5', '-q', 'urgent,2', '-q', 'default')
begin
  bulk, single = (0...jobs).partition { |number| number % 5 == 4 }
  single.each do |number|
    job = number % 3 == 0 ? Urgent : Job
    number % 50 == 0 ? job.perform_in(1, number) : job.perform_async(number)
  end
  Sidekiq::Client.push_bulk('class' => Job, 'args' => bulk.map { |number| [number] })
  file = ENV.fetch('EXECUTED')
  sleep 0.05 until File.exist?(file) && File.foreach(file).count >= jobs
  # One too many would show in a moment.
  sleep 1
  statistics = nil
  # Sidekiq writes its statistics every five seconds.
  200.times do
    statistics = Sidekiq::Stats.new
    break if statistics.processed == jobs
    sleep 0.1
  end
  abort "processed #{statistics.processed}, failed #{statistics.failed}" unless [statistics.processed, statistics.failed] == [jobs, 0]
ensure
  Process.kill('TERM', server)
  Process.wait(server)
end
