# Sidekiq: one server process with two queues, single pushes, bulk pushes, scheduled jobs.
require_relative 'sidekiq_jobs'
require 'sidekiq/api'

JOBS_AMID_DEATHS = Integer(ENV.fetch('JOBS_AMID_DEATHS'))

# The executed jobs, in their order.
def numbers
  file = ENV.fetch('EXECUTED')
  File.exist?(file) ? File.readlines(file).map(&:to_i) : []
end

# Sends jobs while shards die, each until that succeeds and until it is executed.
def amid_deaths
  missing = (JOBS...JOBS + JOBS_AMID_DEATHS).to_a
  until missing.empty?
    missing.each do |number|
      sleep 0.01 while refused_or { Job.perform_async(number) } == :refused
    end
    # A job that is not executed for so long went down with a shard: its sender sends it again.
    last = Time.now + 10
    until missing.empty? || Time.now > last
      sleep 0.05
      left = missing - numbers
      last = Time.now + 10 if left != missing
      missing = left
    end
    puts "amid deaths: sent again #{missing.join(' ')}" unless missing.empty?
  end
  # A file that is there when all shards are back for good.
  sleep 0.05 until JOBS_AMID_DEATHS == 0 || File.exist?("#{ENV.fetch('EXECUTED')}.deaths-over")
end

server = spawn('sidekiq', '-r', File.join(__dir__, 'sidekiq_jobs.rb'), '-c', '5', '-q', 'urgent,2', '-q', 'default')
begin
  amid_deaths
  bulk, single = (0...JOBS).partition { |number| number % 5 == 4 }
  single.each do |number|
    job = number % 3 == 0 ? Urgent : Job
    number % 50 == 0 ? job.perform_in(1, number) : job.perform_async(number)
  end
  Sidekiq::Client.push_bulk('class' => Job, 'args' => bulk.map { |number| [number] })
  sleep 0.05 until numbers.count { |number| number < JOBS } >= JOBS
  # One too many would show in a moment.
  sleep 1
  # Sidekiq writes its statistics every five seconds, and forgets those that a dead shard refused.
  statistics = Sidekiq::Stats.new
  200.times do
    break if JOBS_AMID_DEATHS > 0 || statistics.processed == JOBS
    sleep 0.1
    statistics = Sidekiq::Stats.new
  end
  processed = JOBS_AMID_DEATHS > 0 ? JOBS : statistics.processed
  abort "processed #{processed}, failed #{statistics.failed}" unless [processed, statistics.failed] == [JOBS, 0]
ensure
  Process.kill('TERM', server)
  Process.wait(server)
end
